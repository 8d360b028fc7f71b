"""Data at a local path or a URL: small files, and shards through a cache that a node shares."""
