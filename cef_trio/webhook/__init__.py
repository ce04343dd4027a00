"""Telling somebody else, by HTTP, that a recording is complete. Knows nothing of streams' tasks, nor of Redis."""
