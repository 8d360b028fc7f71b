"""Indexing a tar that was packed here, by reading it whole."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from dataloaders.errors import DataError
from dataloaders.index import Member, SampleEntry, crc32_of
from dataloaders.trust import key_fault

RECORD_SUFFIX = "json"
_REMEDY = "run `gcg pack` again"


def scan_tar(path: Path) -> list[SampleEntry]:
    """Index a tar of ``<key>.<suffix>`` clips, each with its ``<key>.json``, by reading it whole.

    Raises:
        DataError: the tar is damaged, or a sample is not exactly one clip and one record.
    """
    with path.open("rb") as file:
        return scan_tar_file(file, str(path))


def scan_tar_file(file: BinaryIO, path: str) -> list[SampleEntry]:
    """As :func:`scan_tar`, of an open file. ``path``: what messages call it."""
    entries: list[SampleEntry] = []
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members = [info for info in tar if info.isfile()]
            _check_end(path, file, tar.offset)
            for group in _by_key(path, members):
                entries.append(_entry(path, file, group))
    except tarfile.TarError as error:
        raise DataError(f"{path}: not a whole tar ({error}); {_REMEDY}") from None
    return entries


def _check_end(path: str, file: BinaryIO, offset: int) -> None:
    # tarfile takes a header that it cannot read for the end and says nothing.
    block = os.pread(file.fileno(), tarfile.BLOCKSIZE, offset)
    if block != tarfile.NUL * tarfile.BLOCKSIZE:
        raise DataError(
            f"{path}: no member and no end at byte {offset}: the tar is damaged or cut short; "
            f"{_REMEDY}"
        )


def _by_key(path: str, members: list[tarfile.TarInfo]) -> Iterator[dict[str, tarfile.TarInfo]]:
    group: dict[str, tarfile.TarInfo] = {}
    current, seen = None, set()
    for info in members:
        if fault := key_fault(info.name):
            raise DataError(f"{path}: {info.name[:80]!r}: {fault}; {_REMEDY}")
        key, suffix = split_name(info.name)
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


def split_name(name: str) -> tuple[str, str]:
    """Key and suffix as WebDataset splits them: at the first dot of the last part of the name."""
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix


def _entry(path: str, file: BinaryIO, group: Mapping[str, tarfile.TarInfo]) -> SampleEntry:
    key, _ = split_name(next(iter(group.values())).name)
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
