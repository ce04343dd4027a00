"""The heart: one task a recording, from its first byte on disk to its metadata beside the object in S3."""
