"""Finding samples in tars that others wrote: webdataset's ShardWriter, GNU tar, PAX."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dataloaders.errors import DataError
from dataloaders.foreign import FoundSample, Names, Part
from dataloaders.scan_tar import RECORD_SUFFIX, split_name
from dataloaders.video_suffixes import STREAM_SUFFIXES, VIDEO_SUFFIXES

_VIDEOS = {*VIDEO_SUFFIXES, *STREAM_SUFFIXES}
_REMEDY = "copy it again, or take it out of the folder"


def tar_samples(path: Path, names: Names) -> list[FoundSample]:
    """The samples of a tar, in its order, by reading its headers to the very end.

    Members belong together by WebDataset's rule: the name up to the first dot of its last part.

    Raises:
        DataError: the tar is damaged, cut short, compressed, or goes on after its end; with the
            byte where that is.
    """
    members: list[tarfile.TarInfo] = []
    at = 0
    with path.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    members.append(info)
                    at = tar.offset
                at = tar.offset
        except (tarfile.TarError, ValueError, OverflowError) as error:
            raise DataError(
                f"{path}: damaged or cut short at byte {min(at, path.stat().st_size)} ({error}), "
                f"after {len(members)} members; {_kind(file)}{_REMEDY}"
            ) from None
        _check_rest(path, file, at, len(members))
    return [_sample(key, group, names) for key, group in _groups(members)]


def _kind(file: BinaryIO) -> str:
    file.seek(0)
    if file.read(2) == b"\x1f\x8b":
        return "it is compressed with gzip, which has no random access: gunzip it; or "
    return ""


def _check_rest(path: Path, file: BinaryIO, offset: int, num_members: int) -> None:
    """tarfile takes a header that it cannot read for the end, and says nothing."""
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block != tarfile.NUL * tarfile.BLOCKSIZE:
        what = "is cut short: it has no end" if not block else "is damaged: no member and no end"
        raise DataError(f"{path}: {what} at byte {offset}, after {num_members} members; {_REMEDY}")
    place = offset + len(block)
    while chunk := file.read(1 << 20):
        if rest := chunk.lstrip(tarfile.NUL):
            place += len(chunk) - len(rest)
            raise DataError(
                f"{path}: goes on at byte {place}, after its end at {offset}: tars joined with "
                "cat, or damage; make one tar of it, or write them apart"
            )
        place += len(chunk)


def _groups(members: list[tarfile.TarInfo]) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    group: dict[str, tarfile.TarInfo] = {}
    current: str | None = None
    for info in members:
        base = info.name.rpartition("/")[2]
        # Folders, what macOS adds to each file, and WebDataset's own __meta__ entries.
        if info.isdir() or base.startswith(("._", "__", ".")):
            continue
        key, suffix = split_name(info.name)
        if key != current:
            if current is not None:
                yield current, group
            current, group = key, {}
        group[suffix] = info
    if current is not None:
        yield current, group


def _sample(key: str, group: dict[str, tarfile.TarInfo], names: Names) -> FoundSample:
    clips = _clips(group, names.video)
    if len(clips) != 1:
        what = f"{len(clips)} clips, {', '.join(clips)}" if clips else "no clip"
        hint = "" if names.video else "; name the clip's suffix with --video-column"
        return FoundSample(key, problem=f"{what} among the members {sorted(group)}{hint}")
    record = group.get(names.record or RECORD_SUFFIX)
    for info in filter(None, (group[clips[0]], record)):
        if problem := _not_plain(info):
            return FoundSample(key, problem=problem)
    return FoundSample(key, _part(group[clips[0]]), _part(record) if record else None)


def _clips(group: dict[str, tarfile.TarInfo], wanted: str) -> list[str]:
    if wanted:
        return [suffix for suffix in group if suffix == wanted]
    return [suffix for suffix in group if f".{suffix.rpartition('.')[2].lower()}" in _VIDEOS]


def _not_plain(info: tarfile.TarInfo) -> str:
    """Why a member's bytes do not lie in one piece where the header says."""
    if info.issparse():
        return f"{info.name}: a sparse file: its bytes are in pieces; tar it without --sparse"
    if info.islnk() or info.issym():
        kind = "hard" if info.islnk() else "symbolic"
        option = "--hard-dereference" if info.islnk() else "--dereference"
        return f"{info.name}: a {kind} link to {info.linkname}; tar it with {option}"
    return "" if info.isreg() else f"{info.name}: not a file (tar type {info.type!r})"


def _part(info: tarfile.TarInfo) -> Part:
    return Part(info.name, info.offset_data, info.size)
