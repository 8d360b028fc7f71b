"""How data at a URL are read: where their shards are kept, how often and how long is tried."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from dataloaders.layout import check_minimum


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/gcg-train/shards``, by default below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gcg-train" / "shards"


@dataclass(frozen=True)
class StorageOptions:
    """Settings for data at a URL; a local folder needs none of them.

    Args:
        cache_dir: where a node's processes keep shards together; a local disk.
        cache_bytes: the most that lies there, shards on their way in included.
        retries: how often a request that failed is made again.
        backoff_s: before retry n a random time up to ``backoff_s * 2**n`` passes, ...
        max_backoff_s: ... but no more than this.
        timeout_s: the longest silence of a server, in seconds.
        threads: shards fetched ahead at a time.

    Raises:
        DataError: a value below its least.
    """

    cache_dir: Path = field(default_factory=default_cache_dir)
    cache_bytes: int = 64 * 10**9
    retries: int = 6
    backoff_s: float = 0.5
    max_backoff_s: float = 30.0
    timeout_s: float = 60.0
    threads: int = 4

    def __post_init__(self) -> None:
        check_minimum("cache_bytes", self.cache_bytes, 1)
        check_minimum("retries", self.retries, 0)
        check_minimum("threads", self.threads, 1)
