"""Reading and testing clips on their way into a data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from dataloaders.container import decode_test, probe
from dataloaders.decode import decode_frames
from dataloaders.errors import DataError
from dataloaders.frames import uniform_indices
from dataloaders.in_order import map_in_order
from dataloaders.manifest import Video
from dataloaders.time_limit import TimeLimit, TooManyStuckError
from dataloaders.transcode import TranscodeSettings, transcode
from dataloaders.trust import redacted

# Longer than in training: here every frame is decoded, and perhaps encoded.
INGEST_TIMEOUT_S = 600.0
_TEST_FRAMES = 4


@dataclass(frozen=True)
class BadVideo:
    """A video that was left out, and why."""

    key: str
    path: str
    reason: str
    num_questions: int


@dataclass(frozen=True)
class Clip:
    """A usable clip: its key, its file's suffix and bytes, and its probed record."""

    key: str
    suffix: str
    data: bytes
    record: Video


def resolve(path: str, root: Path) -> Path:
    if "://" in path:
        raise DataError("a URL; only files are packed so far: download it first")
    return root / path


@dataclass(frozen=True)
class Ingest:
    """How clips are taken in.

    root: what relative paths are relative to. verify: decode every frame, else a few. transcode:
    how clips are encoded anew; None keeps their bytes. timeout_s: a clip that takes longer is left
    out; 0: no limit.
    """

    root: Path
    verify: bool = True
    transcode: TranscodeSettings | None = None
    timeout_s: float = INGEST_TIMEOUT_S


def prepare_all(rows: list[Video], ingest: Ingest, threads: int) -> Iterator[Clip | BadVideo]:
    """Results in the order of the rows, with few clips in memory at a time.

    Raises:
        TooManyStuckError: so many clips hang their decoder that the process cannot go on.
    """
    limit = TimeLimit(ingest.timeout_s, setting="--decode-timeout")
    try:
        yield from map_in_order(partial(_prepare, ingest, limit), rows, threads)
    finally:
        limit.close()


def _prepare(ingest: Ingest, limit: TimeLimit, row: Video) -> Clip | BadVideo:
    try:
        path = resolve(row.path, ingest.root)
        work = partial(_taken_in, row, path, path.read_bytes(), ingest)
        return limit.run(work, path.name)
    except FileNotFoundError:
        reason = "no such file"
    except (MemoryError, TooManyStuckError):
        raise
    except DataError as error:
        reason = str(error)
    except Exception as error:  # a clip can break a decoder in any way; none may stop the rest
        reason = f"{type(error).__name__}: {error}"
    return BadVideo(row.id, redacted(row.path), " ".join(reason.split()), len(row.questions))


def _taken_in(row: Video, path: Path, data: bytes, ingest: Ingest) -> Clip:
    suffix, done = _member_suffix(path), None
    if ingest.transcode is not None:
        data, done = transcode(data, ingest.transcode, name=path.name)
        suffix = "mp4"
    record = probed(row, data, ingest.verify, f"{path.stem}.{suffix}")
    return Clip(sample_key(row.id), suffix, data, record.model_copy(update={"transcoded": done}))


def probed(row: Video, data: bytes, verify: bool, name: str) -> Video:
    """The row with the file's own facts in place of the annotation's. ``name``: the file's, whose
    suffix helps to tell its format. ``verify``: decode every frame."""
    if verify:
        info = decode_test(data, name=name)
    else:
        info = probe(data, name=name)
    # Also after a full decode: this is the way that training will go.
    indices = uniform_indices(info.frame_count, _TEST_FRAMES)
    decode_frames(data, indices, frame_count=info.frame_count, name=name)
    return row.model_copy(
        update={
            "duration": float(info.duration),
            "frame_count": int(info.frame_count),
            "width": int(info.width),
            "height": int(info.height),
            "rotation": int(info.rotation),
            "codec": info.codec,
        }
    )


def sample_key(video_id: str) -> str:
    """A WebDataset key for a video id: readable, reversible, without the dot that ends a key."""
    return quote(video_id, safe="").replace(".", "%2E")


def _member_suffix(path: Path) -> str:
    suffix = path.suffix.lower().lstrip(".")
    # "json" is the record's; anything that is not a plain word would break the key apart.
    return suffix if suffix.isalnum() and suffix != "json" else "mp4"
