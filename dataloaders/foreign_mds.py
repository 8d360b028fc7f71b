"""Finding samples in MDS shards that others wrote with MDSWriter."""

from __future__ import annotations

from collections.abc import Sequence

from dataloaders import mds_library as mds
from dataloaders.errors import DataError
from dataloaders.foreign import FoundSample, Names, Part

_KEYS = ("key", "__key__", "id", "video_id", "name")
_VIDEOS = ("video", "mp4", "clip", "video_bytes")
_RECORDS = ("record", "json")
_SUFFIXES = ("suffix", "ext", "extension")
# What a container's first bytes say, for the suffix of a clip that has no name.
_MAGIC = ((b"\x1a\x45\xdf\xa3", "mkv"), (b"RIFF", "avi"), (b"OggS", "ogv"), (b"GIF8", "gif"))


def mds_samples(reader: mds.MDSReader, names: Names) -> list[FoundSample]:
    """The samples of a shard, in its order.

    Raises:
        DataError: the shard is damaged, or has no such columns.
    """
    columns = dict(zip(reader.column_names, reader.column_encodings, strict=True))
    video = _column(reader, names.video, _VIDEOS, "video", "--video-column")
    key = _column(reader, names.key, _KEYS, "key", "--key-column")
    if columns[video] != "bytes":
        raise DataError(
            f"{reader.dirname}: column {video}: {columns[video]}: a clip is a column of bytes; "
            "name another with --video-column"
        )
    record = _first(columns, [names.record] if names.record else _RECORDS)
    suffix = _first(columns, _SUFFIXES)
    found = []
    for sample in mds.samples(reader):
        called = str(sample[key].value())
        kind = str(sample[suffix].value()) if suffix else _sniffed(sample[video].data)
        found.append(
            FoundSample(
                called,
                _part(f"{called}.{kind}", sample[video]),
                _part(f"{called}.json", sample[record]) if record else None,
            )
        )
    return found


def _column(
    reader: mds.MDSReader, wanted: str, usual: Sequence[str], what: str, option: str
) -> str:
    found = _first(reader.column_names, [wanted] if wanted else usual)
    if found is None:
        raise DataError(
            f"{reader.dirname}: no column {wanted or ' or '.join(usual)} for the {what}; it has "
            f"{', '.join(reader.column_names)}: name one with {option}"
        )
    return found


def _first(columns: Sequence[str] | dict[str, str], wanted: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in columns), None)


def _sniffed(data: bytes) -> str:
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), "mp4")


def _part(name: str, column: mds.Column) -> Part:
    return Part(name, column.offset, len(column.data))
