"""From a benchmark's name for a video to the file that holds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dataloaders.errors import DataError
from dataloaders.importers.files import read_json
from dataloaders.video_suffixes import VIDEO_SUFFIXES

# NExT-QA: {"2909445186": "0101/2909445186"}; MSVD: lines of "mv89psg6zh4_33_46 vid1".
MAPPING_NAMES = ("map_vid_vidorID.json", "youtube_mapping.txt")


class VideoFinder:
    """Finds a video's file: by its name anywhere below the folder, else by a mapping.

    Args:
        folder: searched at any depth.
        mapping: from a video's name to a path below ``folder``, with or without suffix.
        patterns: how files may be named: ``{}`` is the video's id (``video{}`` for MSRVTT).

    Raises:
        DataError: no such folder.
    """

    def __init__(
        self,
        folder: Path,
        mapping: Mapping[str, str] | None = None,
        patterns: Sequence[str] = ("{}",),
    ):
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give the folder that holds the videos")
        self._folder = folder
        self._mapping = mapping or {}
        self._patterns = patterns
        self._by_stem: dict[str, Path] = {}
        # Sorted, so that of two files with one name it is always the same that is taken.
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
                self._by_stem.setdefault(path.stem, path)

    def __call__(self, video: str) -> Path | None:
        """The absolute path of a video's file; None if it is not there."""
        return next((path.absolute() for path in self._candidates(video)), None)

    def _candidates(self, video: str) -> Iterator[Path]:
        names = [pattern.format(video) for pattern in self._patterns]
        # A file name is a video's name too, in tables that people write: "pan.mp4".
        names += [Path(video).stem] if Path(video).suffix.lower() in VIDEO_SUFFIXES else []
        yield from (self._by_stem[name] for name in names if name in self._by_stem)
        for name in names:
            mapped = self._mapping.get(name)
            if mapped is None:
                continue
            if Path(mapped).name in self._by_stem:
                yield self._by_stem[Path(mapped).name]
            base = self._folder / mapped
            suffixed = (base.with_name(base.name + suffix) for suffix in VIDEO_SUFFIXES)
            yield from (path for path in (base, *suffixed) if path.is_file())


def read_mapping(explicit: Path | None, *folders: Path) -> dict[str, str]:
    """The mapping that is given, else the one that lies in one of the folders, else an empty one.

    Raises:
        DataError: it cannot be read, or is neither a JSON object of texts nor lines of two words.
    """
    if explicit is not None:
        return _read(explicit)
    places = (folder / name for folder in folders for name in MAPPING_NAMES)
    return next((_read(path) for path in places if path.is_file()), {})


def _read(path: Path) -> dict[str, str]:
    found = _pairs(path)
    for name, place in found.items():
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise DataError(f"{path}: {name}: {place}: leaves the videos' folder; stay in it")
    return found


def _pairs(path: Path) -> dict[str, str]:
    if path.suffix != ".txt":
        found = read_json(path)
        if any(not isinstance(value, str) for value in found.values()):
            raise DataError(f"{path}: has a value that is no text; give an object of paths")
        return found
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give lines of two words") from None
    found = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if len(words) == 2:
            found[words[1]] = words[0]
        elif words:
            raise DataError(f"{path}:{number}: {len(words)} words; each line is a file and a name")
    return found
