"""The sidecar index of a packed data set: what lies where in which tar.

``index.json`` lists the shards; ``<shard stem>.index.jsonl`` has one line a sample. With them a
sample is one ``pread`` away, and damage is noticed instead of silently ending a scan.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from dataloaders.errors import DataError, StorageError
from dataloaders.feature_info import FeatureInfo
from dataloaders.manifest import describe
from dataloaders.storage.folder import Folder, LocalFolder, open_folder

INDEX_NAME = "index.json"
INDEX_VERSION = 1
RECORD_SUFFIX = "json"
_REMEDY = "run `gcg pack` again"


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a tar: its name, where its bytes begin, how many, and their CRC-32."""

    name: str
    offset: int
    size: int
    crc32: int


@dataclass(frozen=True, slots=True)
class SampleEntry:
    """One sample of a shard: a clip and its record (the manifest row, as probed)."""

    key: str
    video: Member
    record: Member
    frame_count: int
    num_questions: int


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One shard. ``question_counts[n]`` is the number of its samples with n questions."""

    name: str
    bytes: int
    sha256: str
    num_samples: int
    num_questions: int
    question_counts: Mapping[int, int]

    @property
    def stem(self) -> str:
        return self.name.removesuffix(".tar")

    @property
    def entries_name(self) -> str:
        return f"{self.stem}.index.jsonl"


@dataclass(frozen=True, slots=True)
class DatasetIndex:
    """``index.json``: the shards, and the fingerprint of what they were packed from.

    ``features``: what is in the shards in place of clips.
    """

    shards: tuple[ShardInfo, ...]
    input_fingerprint: str
    features: FeatureInfo | None = None

    @property
    def fingerprint(self) -> str:
        """Of the content, order included: equal for equal shards, wherever they lie."""
        text = json.dumps([[s.name, s.sha256] for s in self.shards])
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def crc32_of(data: bytes) -> int:
    return zlib.crc32(data)


def scan_tar(path: Path) -> list[SampleEntry]:
    """Index a tar of ``<key>.<suffix>`` clips, each with its ``<key>.json``, by reading it whole.

    Raises:
        DataError: the tar is damaged, or a sample is not exactly one clip and one record.
    """
    entries: list[SampleEntry] = []
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = [info for info in tar if info.isfile()]
            _check_end(path, file, tar.offset)
            for group in _by_key(path, members):
                entries.append(_entry(path, file, group))
    except tarfile.TarError as error:
        raise DataError(f"{path}: not a whole tar ({error}); {_REMEDY}") from None
    return entries


def _check_end(path: Path, file: BinaryIO, offset: int) -> None:
    # tarfile takes a header that it cannot read for the end and says nothing.
    block = os.pread(file.fileno(), tarfile.BLOCKSIZE, offset)
    if block != tarfile.NUL * tarfile.BLOCKSIZE:
        raise DataError(
            f"{path}: no member and no end at byte {offset}: the tar is damaged or cut short; "
            f"{_REMEDY}"
        )


def _by_key(path: Path, members: list[tarfile.TarInfo]) -> Iterator[dict[str, tarfile.TarInfo]]:
    group: dict[str, tarfile.TarInfo] = {}
    current, seen = None, set()
    for info in members:
        key, suffix = _split(info.name)
        if key != current:
            if key in seen:
                raise DataError(f"{path}: key: {key!r} occurs twice; keys are unique; {_REMEDY}")
            seen.add(key)
            if group:
                yield group
            current, group = key, {}
        group[suffix] = info
    if group:
        yield group


def _split(name: str) -> tuple[str, str]:
    """Key and suffix as WebDataset splits them: at the first dot of the last part of the name."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix


def _entry(path: Path, file: BinaryIO, group: Mapping[str, tarfile.TarInfo]) -> SampleEntry:
    key, _ = _split(next(iter(group.values())).name)
    clips = [suffix for suffix in group if suffix != RECORD_SUFFIX]
    if len(clips) != 1 or RECORD_SUFFIX not in group:
        raise DataError(
            f"{path}: {key}: has members {sorted(group)}; a sample is one clip and one "
            f"{RECORD_SUFFIX}; {_REMEDY}"
        )
    video, _ = _member(file, group[clips[0]])
    record, text = _member(file, group[RECORD_SUFFIX])
    try:
        fields = json.loads(text)
        frames, questions = int(fields["frame_count"]), len(fields["questions"])
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: {record.name}: not a manifest row; {_REMEDY}") from None
    return SampleEntry(key, video, record, frames, questions)


def _member(file: BinaryIO, info: tarfile.TarInfo) -> tuple[Member, bytes]:
    data = os.pread(file.fileno(), info.size, info.offset_data)
    return Member(info.name, info.offset_data, info.size, crc32_of(data)), data


def describe_shard(path: Path, name: str, entries: Iterable[SampleEntry]) -> ShardInfo:
    """The line of ``index.json`` for the tar at ``path``, which will be called ``name``."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    counts = Counter(entry.num_questions for entry in entries)
    return ShardInfo(
        name=name,
        bytes=path.stat().st_size,
        sha256=digest.hexdigest(),
        num_samples=counts.total(),
        num_questions=sum(n * times for n, times in counts.items()),
        question_counts=dict(sorted(counts.items())),
    )


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)


def write_entries(path: Path, entries: Iterable[SampleEntry]) -> None:
    lines = (json.dumps(asdict(entry), separators=(",", ":")) for entry in entries)
    write_atomic(path, "".join(line + "\n" for line in lines))


def write_index(folder: Path, index: DatasetIndex) -> None:
    body = {
        "version": INDEX_VERSION,
        "format": "wds",
        "input": index.input_fingerprint,
        "fingerprint": index.fingerprint,
        "num_samples": sum(shard.num_samples for shard in index.shards),
        "num_questions": sum(shard.num_questions for shard in index.shards),
        "shards": [asdict(shard) for shard in index.shards],
    }
    if index.features is not None:
        body["features"] = index.features.model_dump(exclude_none=True)
    write_atomic(folder / INDEX_NAME, json.dumps(body, indent=1) + "\n")


def read_index(place: Path | Folder) -> DatasetIndex:
    """Read ``index.json``.

    Raises:
        DataError: it is missing, unreadable, of another version, or lists no shard.
        StorageError: its URL cannot be reached.
    """
    folder = open_folder(place) if isinstance(place, Path) else place
    path = folder.at(INDEX_NAME)
    try:
        body: dict[str, Any] = json.loads(folder.read(INDEX_NAME))
        version = body["version"]
        if version != INDEX_VERSION:
            raise DataError(
                f"{path}: version: {version}: this release reads {INDEX_VERSION}; {_REMEDY}"
            )
        shards = tuple(
            ShardInfo(**{**row, "question_counts": _int_keys(row["question_counts"])})
            for row in body["shards"]
        )
        made = body.get("features")
        features = None if made is None else FeatureInfo.model_validate(made)
        index = DatasetIndex(shards, str(body["input"]), features)
    except FileNotFoundError:
        absent = isinstance(folder, LocalFolder) and not folder.path.is_dir()
        what = "no such folder" if absent else "not a complete packed data set"
        raise DataError(f"{path}: missing: {what}; make it with `gcg pack`") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except DataError:
        raise
    except ValidationError as error:
        raise DataError(f"{path}: features: {describe(error)}; {_REMEDY}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not an index ({error!r}); {_REMEDY}") from None
    if not index.shards:
        raise DataError(f"{path}: shards: none: at least one is needed; {_REMEDY}")
    return index


def _int_keys(counts: Mapping[str, int]) -> dict[int, int]:
    return {int(number): times for number, times in counts.items()}


def read_entries(place: Path | Folder, shard: ShardInfo) -> list[SampleEntry]:
    """The samples of one shard, in tar order.

    Raises:
        DataError: the sidecar is missing or damaged, or disagrees with ``index.json``.
        StorageError: its URL cannot be reached.
    """
    folder = open_folder(place) if isinstance(place, Path) else place
    path = folder.at(shard.entries_name)
    try:
        lines = folder.read(shard.entries_name).splitlines()
        entries = [_parse_entry(line) for line in lines]
    except OSError as error:
        why = error.strerror or "missing"
        raise DataError(f"{path}: cannot be read ({why}); {_REMEDY}") from None
    except StorageError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a shard index ({error!r}); {_REMEDY}") from None
    counts = Counter(entry.num_questions for entry in entries)
    if counts != Counter(dict(shard.question_counts)):
        raise DataError(
            f"{path}: {len(entries)} samples, {sum(e.num_questions for e in entries)} questions; "
            f"{INDEX_NAME} says {shard.num_samples} and {shard.num_questions}; {_REMEDY}"
        )
    return entries


def _parse_entry(line: bytes) -> SampleEntry:
    row = json.loads(line)
    row["video"] = Member(**row["video"])
    row["record"] = Member(**row["record"])
    return SampleEntry(**row)
