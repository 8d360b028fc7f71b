"""A clip and a question to trained models: what each answers, and where it looked."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from dataloaders.index import SampleEntry
from dataloaders.manifest import Question, Video
from dataloaders.open_source import open_source
from dataloaders.shard_source import ShardSource
from gcg.errors import ModelError
from gcg.processor import queries
from gcg.profiles import resolve_profile
from launcher.config import load_run_config
from launcher.config.data import TrainSet
from launcher.errors import UserError
from launcher.evaluation.evaluate import Split
from launcher.evaluation.names import named
from launcher.evaluation.normalise import normalise_answer
from launcher.evaluation.rows import Header, Row
from launcher.export.run import Weights
from launcher.predict import predictor
from launcher.predict.clips import ClipReader, LoadedClip
from launcher.predict.predictor import Predictor, is_run, load_model
from launcher.report.clips import IMAGES_BYTES, Strip, shrunk
from launcher.report.shown import example
from launcher.storage.places import run_place
from launcher.training.data import open_set

_LISTED = 100


@dataclass(frozen=True)
class Asked:
    """``options`` empty: open-ended. ``right``: the answer, as far as it is known; "" if not."""

    text: str
    options: tuple[str, ...] = ()
    right: str = ""


@dataclass(frozen=True)
class Said:
    """What a model answered: an ``example`` for the templates, or ``why`` it did not."""

    name: str
    example: dict[str, Any] | None
    why: str = ""


@dataclass(frozen=True)
class _Model:
    """A model as it was trained, and as it finds pseudo-labels; both have the same weights."""

    name: str
    own: Predictor
    oracle: Predictor
    reader: ClipReader

    @property
    def reads(self) -> tuple[int, int]:
        """What it takes of a clip: so many frames, of such a size."""
        return self.own.processor.num_frames, self.own.processor.image_size


class Asker:
    """Models that can be asked. Safe from several threads: they take turns.

    Args:
        places: trained runs, exported folders, or hub names.
        weights: of runs, which.
        split: of the first run, whose clips can be chosen from; it may be absent.
        data: a packed data set to choose clips from in its place.

    Raises:
        UserError, ModelError: a model cannot be asked.
        DataError: the data cannot be read.
    """

    def __init__(
        self, places: Sequence[str | Path], weights: Weights, split: Split, data: str | None = None
    ) -> None:
        self._models = _load(places, weights)
        self._turn = threading.Lock()
        self.source = _clips_of(places, split) if data is None else open_source(data)
        if self.source is not None and self.source.features is not None:
            raise UserError(f"{self.source.name}: holds features, not clips; name another --data")
        self._places = {} if self.source is None else _listed(self.source)

    def close(self) -> None:
        """End the threads that decode, and leave the data."""
        for model in self._models:
            model.reader.close()
        if self.source is not None:
            self.source.close()

    @property
    def names(self) -> list[str]:
        return [model.name for model in self._models]

    def listed(self) -> list[str]:
        """The keys of the clips that can be chosen: the first of the data set."""
        return list(self._places)

    def record(self, key: str) -> Video:
        """What is known of a clip of the data set; raises as :meth:`read`."""
        source, shard, entry = self._find(key)
        return source.read_record(shard, entry)

    def read(self, key: str) -> tuple[Video, bytes, str]:
        """Record, bytes and file name of a clip of the data set.

        Raises:
            UserError: there is none of that key.
            DataError, StorageError: it cannot be read.
        """
        source, shard, entry = self._find(key)
        sample = source.read(shard, entry)
        return sample.record, sample.video_bytes, entry.video.name

    def _find(self, key: str) -> tuple[ShardSource, int, SampleEntry]:
        place = self._places.get(key)
        if self.source is None or place is None:
            raise UserError(f"clip: {key!r}: there is none of that name; choose one of the list")
        return self.source, *place

    def ask(self, clip: bytes, name: str, asked: Asked, known: Video | None = None) -> list[Said]:
        """Every model's answer.

        Args:
            name: what the clip's file is called.
            known: the clip's record: where the question is one of its own, gold spans are shown.

        Raises:
            UserError, ModelError: the question breaks a rule.
            DataError: the clip cannot be decoded.
        """
        of_clip = [] if known is None else known.questions
        own = next((q for q in of_clip if q.question == asked.text), None)
        question = _question(asked, own)
        with self._turn:
            clips: dict[tuple[int, int], tuple[LoadedClip, Strip]] = {}
            for model in self._models:
                if model.reads not in clips:
                    clips[model.reads] = _decoded(model.reader, clip, name)
            return [_answer(model, *clips[model.reads], question, own) for model in self._models]


def _load(places: Sequence[str | Path], weights: Weights) -> list[_Model]:
    found, problems = [], []
    for place in places:
        try:
            model, processor = load_model(place, weights)
            found.append((Predictor(model, processor), processor))
        except (UserError, ModelError) as error:
            lines = error.lines
            problems += [line if str(place) in line else f"{place}: {line}" for line in lines]
    if problems:
        raise UserError(problems)
    names = named([own.mode for own, _ in found], [PurePath(place) for place in places])
    return [
        _Model(
            name,
            own,
            Predictor(own.model, processor, "oracle"),
            ClipReader(processor, keep_frames=True),
        )
        for name, (own, processor) in zip(names, found, strict=True)
    ]


def _clips_of(places: Sequence[str | Path], split: Split) -> ShardSource | None:
    """The split of the first of the places that is a run."""
    for at in map(run_place, places):
        if is_run(at):
            config = load_run_config(at / "config.yaml")
            place: str | None = getattr(config.data, split)
            return None if place is None else open_set(config, TrainSet(place=place))
    return None


def _listed(source: ShardSource) -> dict[str, tuple[int, SampleEntry]]:
    entries = (
        (entry.key, (shard, entry))
        for shard in range(len(source.shards))
        for entry in source.entries(shard)
    )
    return dict(islice(entries, _LISTED))


def _question(asked: Asked, own: Question | None) -> predictor.Asked:
    options = list(asked.options)
    if options and asked.right and asked.right not in options:
        raise UserError(f"right answer: {asked.right[:60]!r}: is none of the options; copy one")
    if len(options) == 1:
        raise UserError("options: 1: give two or more, one a line, or none at all")
    (query,) = queries(asked.text, options or None)
    statement = own.statement if own is not None and asked.right == own.answer else None
    return predictor.Asked(query, asked.right or None, statement)


def _decoded(reader: ClipReader, data: bytes, name: str) -> tuple[LoadedClip, Strip]:
    clip = reader.decode(data, Path(name))
    assert clip.frames is not None
    images = shrunk(np.stack(clip.frames), IMAGES_BYTES)
    return clip, Strip([], "its frames take too much room") if images is None else Strip(images)


def _answer(
    model: _Model, clip: LoadedClip, strip: Strip, asked: predictor.Asked, own: Question | None
) -> Said:
    if model.own.mode == "oracle" and not asked.answer:
        return Said(model.name, None, "it looks where the right answer is: say which that is")
    (said,) = model.own([clip], [[asked]])
    moments = None
    if asked.answer:
        (peeked,) = (said,) if said.mode == "oracle" else model.oracle([clip], [[asked]])
        moments = peeked.prediction.selected
    row = _row(said, moments, own)
    return Said(model.name, example(row, _header(model.own), model.name, strip, {}))


def _row(said: predictor.Said, moments: list[int] | None, own: Question | None) -> Row:
    """As `gcg eval` would keep it."""
    found, clip = said.prediction, said.clip
    query, right = said.asked.query, said.asked.answer or ""
    options = None if query.options is None else list(query.options)
    likely = found.probabilities
    choice = None if likely is None else max(range(len(likely)), key=likely.__getitem__)
    answer_index = options.index(right) if options and right else None
    if options:
        correct = answer_index is not None and choice == answer_index
    else:
        correct = bool(right) and normalise_answer(found.answer) == normalise_answer(right)
    return {
        "video": clip.path.name,
        "question": "" if own is None else own.id,
        "type": "" if own is None else own.type,
        "text": query.question,
        "options": options,
        "scores": likely and [math.log(p) if p > 0 else -math.inf for p in likely],
        "predicted": found.answer,
        "choice": choice,
        "answer": right,
        "answer_index": answer_index,
        "correct": correct,
        "selected": found.selected,
        "moments": moments,
        "weights": found.weights,
        "centers": found.centers,
        "times": list(clip.times),
        "span": found.span and list(found.span),
        "gold": [list(span) for span in own.spans] if own is not None and own.spans else None,
        "duration": clip.duration,
    }


def _header(own: Predictor) -> Header:
    """Where the frames lie for this model, and how wide its Gaussians are."""
    config = own.model.config
    profile = resolve_profile(config)
    grid = profile.timeline.positions(config.num_frames).tolist()
    return Header(
        split="", mode=own.mode, weights="", step=None, seed=0, data="", fingerprint="",
        sigma=profile.sigma, grid=grid, questions=1,
    )  # fmt: skip
