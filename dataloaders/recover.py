"""A shard's sidecar that is lost or damaged: made again from its tar, if that is whole."""

from __future__ import annotations

import logging
from pathlib import Path

from dataloaders.errors import DataError
from dataloaders.index import SampleEntry, ShardInfo, describe_shard
from dataloaders.scan_tar import scan_tar

logger = logging.getLogger(__name__)


def rebuild_entries(folder: Path, shard: ShardInfo, fault: DataError) -> list[SampleEntry]:
    """The entries that the sidecar held, by reading the whole tar; nothing is written.

    They are the same, to the last field, because ``index.json`` has the tar's SHA-256.

    Raises:
        DataError: ``fault``, what is wrong with the sidecar, where the tar is damaged too.
    """
    path = folder / shard.name
    try:
        entries = scan_tar(path)
        whole = describe_shard(path, shard.name, entries) == shard
    except (DataError, OSError):
        raise fault from None
    if not whole:
        raise fault
    logger.warning("%s (its content was read from the whole tar instead)", fault)
    return entries
