"""Where data come from and where a run's folder goes: reached, read, written, and how fast."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.doctor.finding import Finding, Options

if TYPE_CHECKING:
    from dataloaders.shard_source import ShardSource

_MIB, _GIB = 1 << 20, 1 << 30
_WRITTEN = 64 * _MIB
_SLOW_MIB_S, _LEAST_FREE = 100.0, 10 * _GIB
_DATA_MATTERS = "Every worker reads its shards there, all the time."


_WHY = "Checkpoints are written there, of twelve bytes for each trained weight."


def disk(options: Options) -> Iterator[Finding]:
    """Write to the folder of runs (or of temporary files) and force it out."""
    from dataloaders.location import is_url

    if options.storage and is_url(options.storage):
        yield _bucket(options.storage)
        return
    folder, why = Path(options.storage or tempfile.gettempdir()), _WHY
    remedy = "choose a fast disk that all machines share as run.storage"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        facts = os.statvfs(folder)
        rate = _write_rate(folder)
    except OSError as error:
        yield Finding("disk", "failed", f"{folder}: {error.strerror}", why, remedy)
        return
    free = facts.f_bavail * facts.f_frsize
    yield Finding(
        "disk",
        "ok" if rate >= _SLOW_MIB_S and free >= _LEAST_FREE else "warning",
        f"{folder}: {rate:.0f} MiB/s written and synchronised, {free / _GIB:.0f} GiB free",
        why,
        remedy,
    )


def _bucket(url: str) -> Finding:
    """Upload to where runs shall go, and delete it again."""
    from launcher.storage.places import refused, run_place

    remedy = "check the URL and its credentials, or choose a store that is nearer"
    try:
        probe = run_place(url) / f".gcg-doctor.{os.getpid()}"
        block = os.urandom(_WRITTEN)
        began = time.perf_counter()
        probe.write_bytes(block)
        rate = _WRITTEN / _MIB / (time.perf_counter() - began)
        probe.unlink()
    except Exception as error:
        said = refused(error) or str(error)
        return Finding("disk", "failed", f"{url}: {said}", _WHY, remedy)
    state = "ok" if rate >= _SLOW_MIB_S else "warning"
    return Finding("disk", state, f"{url}: {rate:.0f} MiB/s uploaded in one stream", _WHY, remedy)


def _write_rate(folder: Path) -> float:
    """MiB/s of one file of random bytes, until they are on the disk."""
    block = os.urandom(4 * _MIB)
    with tempfile.TemporaryFile(dir=folder, prefix=".gcg-doctor-") as file:
        began = time.perf_counter()
        for _ in range(_WRITTEN // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return _WRITTEN / _MIB / (time.perf_counter() - began)


def data(options: Options) -> Iterator[Finding]:
    """The packed data set of --data, through the code that training reads it with: its index, its
    shards where they lie at a URL, and its first sample, read and decoded."""
    from dataloaders.errors import DataError
    from dataloaders.location import is_url
    from dataloaders.open_source import open_source
    from dataloaders.storage.check import check_reachable
    from dataloaders.storage.options import StorageOptions

    place = options.data
    if place is None:
        return
    storage = StorageOptions(retries=0)
    name = "data access" if is_url(place) else "data"
    try:
        began = time.perf_counter()
        with open_source(place, storage) as source:
            if is_url(place):
                check_reachable(source, storage)
                took = time.perf_counter() - began
                found = f"{place}: the index and the first and last shard answer in {took:.2f} s"
                yield Finding(name, "ok", found)
                name = "data"
            yield Finding(name, "ok", f"{place}: {_first_sample(source)}")
    except (DataError, OSError) as error:
        said = " ".join(str(error).split())
        yield Finding(name, "failed", said, _DATA_MATTERS, "see what it names")


def _first_sample(source: ShardSource) -> str:
    """What the data set holds, once its first sample was read and, if it is a clip, decoded."""
    from dataloaders.fetch import HostDecoder
    from dataloaders.frames import uniform_indices

    entry = source.entries(0)[0]
    sample = source.read(0, entry)
    shards = source.shards
    holds = f"{sum(shard.num_samples for shard in shards)} samples in {len(shards)} shards"
    if source.features is not None:
        return f"{holds}; the features of {entry.key} read"
    shown = HostDecoder(64)(
        sample.video_bytes,
        uniform_indices(entry.frame_count, 4),
        frame_count=entry.frame_count,
        name=entry.video.name,
    )
    return f"{holds}; {entry.key} read and {len(shown.times)} frames of it decoded"
