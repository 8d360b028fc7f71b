"""Shards as other writers leave them: tars and MDS, and what was read of them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

from dataloaders.index_folder import IndexReport
from dataloaders.open_source import open_source
from dataloaders.source import Sample
from tests.dataloaders.shard_fixtures import clip_bytes, video


def row_text(number: int, **changes) -> bytes:
    return video(number).model_copy(update=changes).model_dump_json().encode()


def write_tar(path: Path, members: list[tuple[str, bytes]], format: int = tarfile.PAX_FORMAT,
              **fields) -> Path:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def pairs(numbers: range | list[int], prefix: str = "") -> list[tuple[str, bytes]]:
    return [
        member for n in numbers
        for member in ((f"{prefix}v{n:03d}.mp4", clip_bytes(n)),
                       (f"{prefix}v{n:03d}.json", row_text(n)))
    ]  # fmt: skip


def read_all(folder: Path) -> list[Sample]:
    with open_source(folder) as source:
        return [
            source.read(number, entry)
            for number in range(len(source.shards))
            for entry in source.entries(number)
        ]


def reasons(report: IndexReport) -> dict[str, str]:
    return {bad.key: bad.reason for bad in report.bad}


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob(pattern)}


def check(samples: list[Sample], numbers: list[int]) -> None:
    assert [s.video_bytes for s in samples] == [clip_bytes(n) for n in numbers]
    assert [s.record.id for s in samples] == [f"v{n:03d}" for n in numbers]
    assert all(s.record.frame_count == 16 and s.record.codec == "h264" for s in samples)


def write_mds(out: Path, columns: dict[str, str], rows: list[dict], **settings) -> None:
    from streaming.base.format import MDSWriter

    with MDSWriter(columns=columns, out=str(out), **{"size_limit": 6000, **settings}) as writer:
        for row in rows:
            writer.write(row)
