"""A checkpoint in an object store, brought to the machines whose ranks read it.

Each machine fetches what its ranks need and no more: at the layout of the checkpoint their own
shards, else the converted form. What was fetched is compared with the checksums in ``COMMIT``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from launcher.checkpoints.commit import Checkpoint, rank_record
from launcher.checkpoints.verify import damage, share
from launcher.storage.places import download, is_remote, refused, remove_tree, working_place
from launcher.storage.run_folder import read_json
from launcher.training.agreement import ranks_here

_AT_A_TIME = 4
# Written by rank 0 alone, read by all: at ZeRO-1 and 2 the weights are the same everywhere.
_SHARED = "zero/mp_rank_00_model_states.pt"


def local_form(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint as it lies on this machine, once it was fetched."""
    if not is_remote(checkpoint.path):
        return checkpoint
    return replace(checkpoint, path=working_place(checkpoint.path))


def fetch_own_shards(checkpoint: Checkpoint) -> list[str]:
    """Fetch what this rank reads at the checkpoint's own layout. Every rank calls it.

    Returns:
        A line for each file of any rank that is missing, or not what was written.

    Raises:
        OSError: on every rank, if the storage did not answer one of them.
    """
    rank, here = dist.get_rank(), ranks_here()
    record = read_json(checkpoint.path / rank_record(rank)) or {"files": {}}
    wanted = {name for name in record["files"] if name in checkpoint.files}
    if rank == here[0] and _SHARED in checkpoint.files:
        wanted.add(_SHARED)
    elif rank != here[0]:
        wanted.discard(_SHARED)
    return _fetched_together(checkpoint, wanted)


def fetch_all(checkpoint: Checkpoint) -> list[str]:
    """As :func:`fetch_own_shards`, all files once to every machine, each rank there a share."""
    here = ranks_here()
    return _fetched_together(checkpoint, share(checkpoint, here.index(dist.get_rank()), len(here)))


def damage_found_together(checkpoint: Checkpoint) -> list[str]:
    """What is wrong with a checkpoint's files, each rank reading a share of them where they lie.

    Raises:
        OSError: on every rank, if the storage did not answer one of them.
    """
    names = share(checkpoint, dist.get_rank(), dist.get_world_size())
    return _together(lambda: damage(checkpoint, names))


@contextmanager
def cleared(checkpoint: Checkpoint) -> Iterator[Checkpoint]:
    """The fetched form, for as long as it is needed. Every rank enters and leaves it."""
    yield local_form(checkpoint)
    clear(checkpoint.path)


def clear(place: Path) -> None:
    """Delete what was fetched of a place, or left there by workers that were killed. Every rank."""
    if is_remote(place):
        dist.barrier()
        if dist.get_rank() == ranks_here()[0]:
            remove_tree(working_place(place))
        dist.barrier()


def _fetched_together(checkpoint: Checkpoint, names: Iterable[str]) -> list[str]:
    local = local_form(checkpoint)

    def fetch(name: str) -> list[str]:
        try:
            download(checkpoint.path / name, local.path / name)
        except FileNotFoundError:
            return [f"{name}: is missing"]
        return damage(local, [name])

    def fetch_each() -> list[str]:
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return [line for lines in pool.map(fetch, names) for line in lines]

    faults = _together(fetch_each)
    if faults:
        clear(checkpoint.path)
    return faults


def _together(action: Callable[[], list[str]]) -> list[str]:
    """The lines of all ranks. A storage that does not answer says nothing about what lies there:
    all ranks fail, and the next attempt looks again."""
    lines, silent = [], None
    try:
        lines = action()
    except Exception as error:
        silent = refused(error)
        if silent is None:
            raise
    found: list[tuple[list[str], str | None]] = [([], None)] * dist.get_world_size()
    dist.all_gather_object(found, (lines, silent))
    for _, why in found:
        if why is not None:
            raise OSError(f"a checkpoint cannot be read: {why}")
    return [line for each, _ in found for line in each]
