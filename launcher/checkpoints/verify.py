"""Is a checkpoint still what was written? Its files against the checksums in ``COMMIT``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from launcher.checkpoints.commit import Checkpoint, describe
from launcher.storage.places import is_remote


def share(checkpoint: Checkpoint, part: int, parts: int) -> list[str]:
    """Every ``parts``-th file from ``part`` on: ranks read a checkpoint together, each its share.

    Larger files first, so that the shares are about equally large.
    """
    names = sorted(checkpoint.files, key=lambda name: (-checkpoint.files[name]["bytes"], name))
    return names[part::parts]


def damage(
    checkpoint: Checkpoint,
    names: Iterable[str] | None = None,
    *,
    threads: int = 1,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> list[str]:
    """A line for each file that is not what was written.

    Args:
        names: of the files to read; all of them if None.
        threads: files read at a time.
        on_bytes: called with the size of each file that was read.
    """
    chosen = list(checkpoint.files if names is None else names)

    def read(name: str) -> list[str]:
        faults = _faults(checkpoint, name)
        on_bytes(checkpoint.files[name]["bytes"])
        return faults

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        return [fault for faults in pool.map(read, chosen) for fault in faults]


def _faults(checkpoint: Checkpoint, name: str) -> list[str]:
    listed = checkpoint.files[name]
    try:
        there = describe(checkpoint.path / name)
    except FileNotFoundError:
        return [f"{name}: is missing"]
    except OSError as error:
        if is_remote(checkpoint.path):  # which says nothing about what lies there
            raise
        return [f"{name}: cannot be read ({error.strerror})"]
    if there["bytes"] != listed["bytes"]:
        return [f"{name}: has {there['bytes']} bytes, {listed['bytes']} were written"]
    if there["sha256"] != listed["sha256"]:
        return [
            f"{name}: SHA-256 {there['sha256'][:12]}…, {listed['sha256'][:12]}… was written: "
            "damaged, or another checkpoint's"
        ]
    return []
