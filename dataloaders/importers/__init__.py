"""Benchmarks' own annotation files -> rows of a manifest; one file a family.

Each reads its questions without any video (``read_asked``), so that scoring goes by the same ids
and types as training; ``import_videos`` joins them with the files of the videos.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dataloaders.bad_questions import BadQuestions
from dataloaders.errors import DataError
from dataloaders.importers import causalvidqa, nextqa, openended, star, table
from dataloaders.importers.asked import Asked, Files, split_of
from dataloaders.importers.join import join
from dataloaders.importers.videos import VideoFinder, read_mapping
from dataloaders.manifest import Video

__all__ = ["BENCHMARKS", "Asked", "Files", "import_videos", "read_asked", "split_of"]


@dataclass(frozen=True)
class _Benchmark:
    read: Callable[[Files], list[Asked]]
    patterns: tuple[str, ...] = ("{}",)
    takes_spans: bool = False
    takes_ids: bool = False


BENCHMARKS = {
    "nextqa": _Benchmark(nextqa.read_rows, takes_spans=True),
    "nextoe": _Benchmark(nextqa.read_rows),
    "nextgqa": _Benchmark(nextqa.read_grounded, takes_spans=True),
    "intentqa": _Benchmark(nextqa.read_rows),
    "causalvidqa": _Benchmark(causalvidqa.read_rows, takes_ids=True),
    "star": _Benchmark(star.read_rows),
    "msvdqa": _Benchmark(openended.read_msvd, ("{}", "vid{}")),
    "msrvttqa": _Benchmark(openended.read_msvd, ("{}", "video{}")),
    "activitynetqa": _Benchmark(openended.read_activitynet, ("{}", "v_{}")),
    "table": _Benchmark(table.read_rows),
}


def read_asked(name: str, files: Files) -> list[Asked]:
    """A benchmark's questions in the order of its file. Raises DataError: it cannot be used."""
    benchmark = BENCHMARKS[name]
    for option, value, takes in (
        ("--spans", files.spans, benchmark.takes_spans),
        ("--ids", files.ids, benchmark.takes_ids),
    ):
        if value is not None and not takes:
            raise DataError(f"{option} {value}: {name} has no such file; leave it out")
    return benchmark.read(files)


def import_videos(
    name: str,
    files: Files,
    videos_dir: Path,
    *,
    mapping: Path | None = None,
    bad: BadQuestions | None = None,
) -> tuple[list[Video], list[str]]:
    """Rows of a manifest for the videos that are there, and the ids of those that are not.

    Args:
        name: one of ``BENCHMARKS``.
        videos_dir: searched at any depth for files by the videos' names, then by a mapping.
        mapping: NExT-QA's ``map_vid_vidorID.json`` or MSVD's ``youtube_mapping.txt``; by default
            the one beside the annotations or in ``videos_dir``.
        bad: takes the questions without a usable answer; None: such a question is an error.

    Raises:
        DataError: a file or a row cannot be used, or none of the videos is there.
    """
    paths = read_mapping(mapping, files.annotations.parent, videos_dir)
    find = VideoFinder(videos_dir, paths, BENCHMARKS[name].patterns)
    videos, missing = join(read_asked(name, files), find, files.annotations, bad)
    if missing and not videos:
        names = " or ".join(p.format(missing[0]) for p in BENCHMARKS[name].patterns)
        raise DataError(
            f"{videos_dir}: has none of the {len(missing)} videos of {files.annotations}; looked "
            f"for {names} with a video's suffix, at any depth; give the folder that holds them"
        )
    return videos, missing
