"""What the page can do, without HTTP: clips, questions, answers in every mode."""

from __future__ import annotations

import base64
import itertools
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dataloaders.errors import DataError
from gcg.config import Mode
from gcg.errors import ModelError
from gcg.model import GCGModel
from gcg.processor import GCGProcessor, queries
from launcher.predict.batch import SUFFIXES
from launcher.predict.clips import ClipReader, LoadedClip
from launcher.predict.predictor import Asked, Predictor
from launcher.predict.strip import strip_png

MODES: tuple[Mode, ...] = ("grounding", "uniform", "oracle")
_DECODED = 4  # clips whose frames are kept
_UPLOADS = 20  # files that are kept


class Ask(BaseModel):
    """A question from the page. ``answer``: the right one, which the oracle peeks at."""

    model_config = ConfigDict(extra="forbid")

    clip: str = Field(min_length=1)
    question: str = Field(min_length=1, max_length=2000)
    options: list[str] = Field(default_factory=list, max_length=100)
    answer: str = Field(default="", max_length=2000)


class Demo:
    """Answers questions about the videos of a folder, and about uploaded ones.

    Args:
        model: any that reads clips.
        processor: of it.
        folder: whose videos may be chosen; None: only uploads.
        uploads: an empty folder, where uploads are kept until they are too many.

    Safe from several threads; the model answers one question at a time.
    """

    def __init__(
        self, model: GCGModel, processor: GCGProcessor, folder: Path | None, uploads: Path
    ) -> None:
        self._predictors = {mode: p for mode in MODES if (p := _predictor(model, processor, mode))}
        if not self._predictors:
            Predictor(model, processor)  # says why
        self._reader = ClipReader(processor, keep_frames=True)
        self._folder, self._uploads = folder, uploads
        self._numbers = itertools.count(1)
        self._added: OrderedDict[str, Path] = OrderedDict()
        self._clips: OrderedDict[Path, LoadedClip] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """What may be chosen: paths below the folder, then uploads."""
        found = [] if self._folder is None else sorted(self._folder.rglob("*"))
        chosen = [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]
        return [str(path.relative_to(self._folder or path)) for path in chosen] + [*self._added]

    def add(self, name: str, data: bytes) -> str:
        """Keep an upload; returns the name it can be chosen by."""
        number = next(self._numbers)
        suffix = Path(name).suffix.lower()
        path = self._uploads / f"{number}{suffix if suffix in SUFFIXES else '.mp4'}"
        path.write_bytes(data)
        with self._lock:
            shown = f"upload {number}: {Path(name).name[:100]}"
            self._added[shown] = path
            while len(self._added) > _UPLOADS:
                _, old = self._added.popitem(last=False)
                self._clips.pop(old, None)
                old.unlink(missing_ok=True)
        return shown

    def ask(self, asked: Ask) -> list[dict[str, Any]]:
        """The answer in every mode that the model has: what :meth:`Said.row` says, and ``strip``, a
        PNG as a data URL.

        Raises:
            DataError: there is no such clip, or it cannot be read.
            ModelError: the question or its options cannot be asked.
        """
        (query,) = queries(asked.question, asked.options or None)
        with self._lock:
            clip = self._clip(self._path(asked.clip))
            found = []
            for mode, predictor in self._predictors.items():
                if mode == "oracle" and not asked.answer.strip():
                    continue
                (said,) = predictor([clip], [[Asked(query, asked.answer.strip() or None)]])
                image = base64.b64encode(strip_png(said)).decode()
                found.append({**said.row(), "strip": f"data:image/png;base64,{image}"})
        return found

    def _path(self, name: str) -> Path:
        if name in self._added:
            return self._added[name]
        if self._folder is None or name not in self.names():
            raise DataError(f"clip = {name!r}: is not among those to choose; upload it, or reload")
        return self._folder / name

    def _clip(self, path: Path) -> LoadedClip:
        if path not in self._clips:
            self._clips[path] = self._reader(path)
        self._clips.move_to_end(path)
        while len(self._clips) > _DECODED:
            self._clips.popitem(last=False)
        return self._clips[path]

    def close(self) -> None:
        self._reader.close()


def _predictor(model: GCGModel, processor: GCGProcessor, mode: Mode) -> Predictor | None:
    try:
        return Predictor(model, processor, mode)
    except ModelError:  # a model that was trained without has no grounding
        return None
