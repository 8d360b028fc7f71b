"""The sidecar index of a packed data set: what lies where in which tar.

``index.json`` lists the shards; ``<shard stem>.index.jsonl`` has one line a sample. With them a
sample is one ``pread`` away, and damage is noticed instead of silently ending a scan.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dataloaders.errors import DataError, DeniedError, StorageError
from dataloaders.feature_info import FeatureInfo
from dataloaders.manifest import describe
from dataloaders.storage.folder import Folder, LocalFolder, open_folder
from dataloaders.trust import key_fault, name_fault

INDEX_NAME = "index.json"
# Where `index.json` is another's: MDS keeps its own there, and so do some writers of tars.
OWN_INDEX_NAME = "gcg.index.json"
INDEX_VERSION = 1
FORMATS = ("wds", "mds")
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
    """One shard. ``question_counts[n]`` is the number of its samples with n questions.

    ``records_sha256`` is empty where the records lie in the shard. Shards of others may lack them:
    then they lie beside it, in ``records_name``.
    """

    name: str
    bytes: int
    sha256: str
    num_samples: int
    num_questions: int
    question_counts: Mapping[int, int]
    records_sha256: str = ""

    @property
    def stem(self) -> str:
        """What files about this shard are called; flat, also where it lies in a subfolder."""
        return self.name.removesuffix(".tar").removesuffix(".mds").replace("/", "--")

    @property
    def records_name(self) -> str:
        """The file that the records' offsets are in."""
        return f"{self.stem}.records.jsonl" if self.records_sha256 else self.name

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
    format: str = "wds"
    features: FeatureInfo | None = None

    @property
    def fingerprint(self) -> str:
        """Of the content, order included: equal for equal shards, wherever they lie."""
        text = json.dumps(
            [[s.name, s.sha256, *filter(None, [s.records_sha256])] for s in self.shards]
        )
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def crc32_of(data: bytes) -> int:
    return zlib.crc32(data)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def describe_shard(path: Path, name: str, entries: Iterable[SampleEntry]) -> ShardInfo:
    """The line of ``index.json`` for the tar at ``path``, which will be called ``name``."""
    counts = Counter(entry.num_questions for entry in entries)
    return ShardInfo(
        name=name,
        bytes=path.stat().st_size,
        sha256=sha256_of(path),
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


def index_path(folder: Path) -> Path:
    """Where a data set's index lies, or would lie if there is none."""
    own = folder / OWN_INDEX_NAME
    return own if own.exists() else folder / INDEX_NAME


def write_index(folder: Path, index: DatasetIndex, name: str | None = None) -> None:
    """Write the index; last, since a folder with one counts as complete."""
    body = {
        "version": INDEX_VERSION,
        "format": index.format,
        "input": index.input_fingerprint,
        "fingerprint": index.fingerprint,
        "num_samples": sum(shard.num_samples for shard in index.shards),
        "num_questions": sum(shard.num_questions for shard in index.shards),
        "shards": [_row(shard) for shard in index.shards],
    }
    if index.features is not None:
        body["features"] = index.features.model_dump(exclude_none=True)
    name = name or (INDEX_NAME if index.format == "wds" else OWN_INDEX_NAME)
    write_atomic(folder / name, json.dumps(body, indent=1) + "\n")


def _row(shard: ShardInfo) -> dict[str, Any]:
    return {name: value for name, value in asdict(shard).items() if value != ""}


def read_index(place: Path | Folder) -> DatasetIndex:
    """Read ``gcg.index.json`` or else ``index.json``.

    Raises:
        DataError: it is missing, unreadable, of another version, or lists no shard.
        StorageError: its URL cannot be reached.
    """
    folder = open_folder(place) if isinstance(place, Path) else place
    path, text = _index_text(folder)
    try:
        body: dict[str, Any] = json.loads(text)
        foreign = "input" not in body and ("shards" in body or "shardlist" in body)
        if foreign and path.endswith(f"/{INDEX_NAME}"):
            raise DataError(
                f"{path}: the index of another library, without clip lengths and checksums; "
                f"`gcg index {folder.location}` writes ours beside it"
            )
        version = body["version"]
        if version != INDEX_VERSION:
            raise DataError(
                f"{path}: version: {version}: this release reads {INDEX_VERSION}; {_REMEDY}"
            )
        shards = tuple(
            ShardInfo(**{**row, "question_counts": _int_keys(row["question_counts"])})
            for row in body["shards"]
        )
        for shard in shards:
            if fault := name_fault(shard.name):
                raise DataError(f"{path}: shards: {str(shard.name)[:80]!r}: {fault}; {_REMEDY}")
        made = body.get("features")
        features = None if made is None else FeatureInfo.model_validate(made)
        format = str(body.get("format", "wds"))
        index = DatasetIndex(shards, str(body["input"]), format, features)
    except DataError:
        raise
    except ValidationError as error:
        raise DataError(f"{path}: features: {describe(error)}; {_REMEDY}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not an index ({error!r}); {_REMEDY}") from None
    if not index.shards:
        raise DataError(f"{path}: shards: none: at least one is needed; {_REMEDY}")
    if index.format not in FORMATS:
        raise DataError(f"{path}: format: {index.format!r}: one of {', '.join(FORMATS)}; {_REMEDY}")
    return index


def _index_text(folder: Folder) -> tuple[str, bytes]:
    """Where the index lies, and its text: our own where ``index.json`` is another library's."""
    for name in (OWN_INDEX_NAME, INDEX_NAME):
        try:
            return folder.at(name), folder.read(name)
        except FileNotFoundError:
            continue
        except DeniedError:
            if name == INDEX_NAME:
                raise
        except OSError as error:
            why = error.strerror or "unreadable"
            raise DataError(f"{folder.at(name)}: cannot be read ({why})") from None
    absent = isinstance(folder, LocalFolder) and not folder.path.is_dir()
    what = "no such folder" if absent else "not a complete packed data set"
    raise DataError(
        f"{folder.at(INDEX_NAME)}: missing: {what}; make it with `gcg pack`, or with `gcg index` "
        "where shards come from elsewhere"
    )


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
    for name in (row["key"], row["video"].name, row["record"].name):
        if fault := key_fault(name):
            raise ValueError(f"{name[:80]!r} {fault}")
    return SampleEntry(**row)
