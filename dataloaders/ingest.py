"""Reading and testing clips on their way into a data set."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dataloaders.container import decode_test, probe
from dataloaders.decode import decode_frames
from dataloaders.errors import DataError
from dataloaders.frames import uniform_indices
from dataloaders.manifest import Video

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


def prepare_all(
    rows: list[Video], root: Path, verify: bool, threads: int
) -> Iterator[Clip | BadVideo]:
    """Results in the order of the rows, with few clips in memory at a time."""
    window: deque[Future[Clip | BadVideo]] = deque()
    with ThreadPoolExecutor(max(1, threads), "pack") as pool:
        try:
            for row in rows:
                window.append(pool.submit(_prepare, row, root, verify))
                if len(window) > 2 * threads:
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()


def _prepare(row: Video, root: Path, verify: bool) -> Clip | BadVideo:
    try:
        path = resolve(row.path, root)
        data = path.read_bytes()
        return Clip(sample_key(row.id), _member_suffix(path), data, probed(row, data, verify))
    except FileNotFoundError:
        reason = "no such file"
    except DataError as error:
        reason = str(error)
    except MemoryError:
        raise
    except Exception as error:  # a clip can break a decoder in any way; none may stop the rest
        reason = f"{type(error).__name__}: {error}"
    return BadVideo(row.id, row.path, " ".join(reason.split()), len(row.questions))


def probed(row: Video, data: bytes, verify: bool, name: str = "") -> Video:
    """The row with the file's own facts in place of the annotation's."""
    name = name or Path(row.path).name
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
