"""Whether what an index at a URL names can be reached, without fetching it."""

from __future__ import annotations

from dataloaders.errors import StorageError
from dataloaders.shard_source import ShardSource
from dataloaders.storage.folder import RemoteFolder, open_folder
from dataloaders.storage.options import StorageOptions


def check_reachable(source: ShardSource, storage: StorageOptions | None = None) -> None:
    """Ask the server for the first and the last shard's size; nothing to do for a local folder,
    nor for shards that lie compressed, whose sizes no index of ours has.

    Raises:
        StorageError: one is not there, may not be read, or has another size than its index says.
    """
    folder = open_folder(source.name, storage)
    if not isinstance(folder, RemoteFolder) or source.compressed:
        return
    for shard in {0: source.shards[0], 1: source.shards[-1]}.values():
        try:
            size = folder.size(shard.name)
        except FileNotFoundError:
            raise StorageError(
                f"{folder.at(shard.name)}: in the index but nothing there; upload it, or run "
                "`gcg pack` again"
            ) from None
        if size is not None and size != shard.bytes:
            raise StorageError(
                f"{folder.at(shard.name)}: {size} bytes, its index says {shard.bytes}: the index "
                "does not fit its shard; upload both again"
            )
