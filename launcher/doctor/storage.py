"""Where data come from and where a run's folder goes: reached, read, written, and how fast."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from launcher.doctor.finding import Finding, Options

_MIB, _GIB = 1 << 20, 1 << 30
_WRITTEN = 64 * _MIB
_SLOW_MIB_S, _LEAST_FREE = 100.0, 10 * _GIB
_READ_AT_MOST = 8 * _MIB
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ROLE_ARN",
                "AWS_WEB_IDENTITY_TOKEN_FILE")  # fmt: skip
_DATA_MATTERS = "Every worker reads its shards there, all the time."


def disk(options: Options) -> Iterator[Finding]:
    """Write to the folder of runs (or of temporary files) and force it out."""
    folder = Path(options.storage or tempfile.gettempdir())
    why = "Checkpoints are written there, of twelve bytes for each trained weight."
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
    """The packed data set of --data: its index, and its first clip, read and decoded."""
    from dataloaders.location import is_url

    if options.data is None:
        return
    if is_url(options.data):
        reached = _reach(options.data)
        yield reached
        if reached.state == "failed":
            return
    yield _first_clip(options.data)


def _reach(url: str) -> Finding:
    """The index and the head of the first shard by fsspec: address, credentials, permission."""
    import json

    import fsspec

    from dataloaders.location import join

    scheme = url.partition("://")[0]
    try:
        files, path = fsspec.core.url_to_fs(url)
        began = time.perf_counter()
        index = json.loads(files.cat_file(join(path, "index.json")))
        first_s = time.perf_counter() - began
        shard = index["shards"][0]
        began = time.perf_counter()
        head = files.cat_file(join(path, shard["name"]), 0, min(_READ_AT_MOST, shard["bytes"]))
        rate = len(head) / _MIB / max(1e-9, time.perf_counter() - began)
    except Exception as error:  # every file system has its own
        return Finding(
            "data access", "failed", f"{url}: {_said(error)}", _DATA_MATTERS, _advice(error, scheme)
        )
    return Finding(
        "data access",
        "ok",
        f"{url}: index in {first_s:.2f} s, then {len(head) / _MIB:.1f} MiB at {rate:.0f} MiB/s",
    )


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def _advice(error: BaseException, scheme: str) -> str:
    if isinstance(error, ImportError):
        return f"pip install the fsspec package for {scheme}:// (s3fs for s3://)"
    if isinstance(error, FileNotFoundError):
        return "the address must be that of a folder with index.json, as `gcg pack` writes it"
    there = [name for name in _CREDENTIALS if os.environ.get(name)]
    known = f"set here: {', '.join(there)}" if there else f"not set: {', '.join(_CREDENTIALS)}"
    advice = "see that the host can be reached from here and that this user may list and read"
    return f"{advice}; {known}" if scheme == "s3" else advice


def _first_clip(place: str) -> Finding:
    from dataloaders.errors import DataError
    from dataloaders.fetch import HostDecoder
    from dataloaders.frames import uniform_indices
    from dataloaders.open_source import open_source

    try:
        with open_source(place) as source:
            entry = source.entries(0)[0]
            sample = source.read(0, entry)
            shown = HostDecoder(64)(
                sample.video_bytes,
                uniform_indices(entry.frame_count, 4),
                frame_count=entry.frame_count,
                name=entry.video.name,
            )
            shards = source.shards
            return Finding(
                "data",
                "ok",
                f"{place}: {sum(shard.num_samples for shard in shards)} clips in {len(shards)} "
                f"shards; {entry.key} read and {len(shown.times)} frames of it decoded",
            )
    except (DataError, OSError) as error:
        return Finding(
            "data", "failed", " ".join(str(error).split()), _DATA_MATTERS, "see what it names"
        )
