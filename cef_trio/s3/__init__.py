"""S3, spoken by ourselves: SigV4 over httpx on trio, multipart uploads, checksums, and every known trap of Complete."""
