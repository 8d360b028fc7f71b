"""A clip and a question to trained runs: packed, labelled and evaluated as a data set of one."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from dataloaders.ingest import BadVideo, Ingest, prepare_all
from dataloaders.manifest import Question, Video
from dataloaders.open_source import open_source
from dataloaders.shard_source import ShardSource
from dataloaders.shards import pack
from launcher.config import RunConfig
from launcher.config.data import TrainSet
from launcher.errors import UserError
from launcher.evaluation.evaluate import Split, evaluate_split
from launcher.evaluation.keep import add_moments, header_of, pseudo_labels
from launcher.export.run import Weights, open_run, run_fault
from launcher.labelling.label import label_data
from launcher.report.clips import Clips
from launcher.report.shown import example
from launcher.training.data import open_set

_CLIP = "clip"
_LISTED = 100


@dataclass(frozen=True)
class Asked:
    """``options`` empty: open-ended. ``right``: the answer, as far as it is known; "" if not."""

    text: str
    options: tuple[str, ...] = ()
    right: str = ""


@dataclass(frozen=True)
class Said:
    """What a run answered: an ``example`` for the templates, or ``why`` it did not."""

    name: str
    example: dict[str, Any] | None
    why: str = ""


class Asker:
    """Runs that can be asked. Safe from several threads: they take turns.

    Args:
        runs: trained runs' folders.
        split: of the first run, whose clips can be chosen from; it may be absent.

    Raises:
        UserError: a run cannot be asked.
    """

    def __init__(self, runs: Sequence[Path], weights: Weights, split: Split) -> None:
        problems = [line for run in runs if isinstance(line := run_fault(run, weights), str)]
        if problems:
            raise UserError(problems)
        opened = [open_run(run, weights) for run in runs]
        configs = [each.config for each in opened]
        problems = [
            f"{run}: model.input: {config.model.input}: reads no clips; name a run that does"
            for run, config in zip(runs, configs, strict=True)
            if config.model.input != "video"
        ]
        if problems:
            raise UserError(problems)
        modes = [config.model.mode for config in configs]
        self._models = [
            (
                config.model.mode if modes.count(config.model.mode) == 1 else run.name,
                config,
                each.trained_model(),
            )
            for run, config, each in zip(runs, configs, opened, strict=True)
        ]
        self._weights = weights
        self._turn = threading.Lock()
        self.source = _clips_of(configs[0], split)

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self._models]

    def listed(self) -> dict[str, tuple[int, int]]:
        """The first clips of the split, by key: where they lie."""
        if self.source is None:
            return {}
        places = (
            (entry.key, (shard, number))
            for shard in range(len(self.source.shards))
            for number, entry in enumerate(self.source.entries(shard))
        )
        return dict(islice(places, _LISTED))

    def read(self, key: str) -> tuple[Video, bytes, str]:
        """Record, bytes and file name of a clip of the split.

        Raises:
            UserError: there is none of that key.
            DataError: it cannot be read.
        """
        place = self.listed().get(key)
        if self.source is None or place is None:
            raise UserError(f"clip: {key!r}: there is none of that name; choose one of the list")
        entry = self.source.entries(place[0])[place[1]]
        sample = self.source.read(place[0], entry)
        return sample.record, sample.video_bytes, entry.video.name

    def ask(self, clip: bytes, name: str, asked: Asked, known: Video | None = None) -> list[Said]:
        """Every run's answer.

        Args:
            name: the clip's file name; its suffix helps to tell its format.
            known: the clip's record: where the question is one of its own, gold spans are shown.

        Raises:
            UserError: the clip cannot be used, or the question breaks a rule.
            DataError: likewise, as found on the way.
        """
        question = _question(asked, known)
        with self._turn, tempfile.TemporaryDirectory(prefix="gcg-ask-") as scratch:
            data = _packed(Path(scratch), clip, Path(name).suffix, question)
            return [
                self._answer(n, config, model, data, asked) for n, config, model in self._models
            ]

    def _answer(self, name: str, config: RunConfig, model: Any, data: Path, asked: Asked) -> Said:
        if config.model.mode == "oracle" and not asked.right:
            return Said(name, None, "it looks where the right answer is: say which that is")
        section = config.data.model_copy(update={"test": str(data), "labels": "topk"})
        config = config.model_copy(update={"data": section})
        if asked.right:
            label_data(data, config.model)
        (row,) = evaluate_split(model, config, "test", detailed=True)
        if "skipped" in row:
            return Said(name, None, row["skipped"])
        row["moments"] = None
        if not asked.right:
            row |= {"answer": "", "answer_index": None, "correct": False}
        with open_source(data) as source:
            if asked.right:
                add_moments([row], pseudo_labels(config, source, str(data)))
            header = header_of(config, "test", source.fingerprint, 1, self._weights)
            clips = Clips(source, config.model.num_frames, 1)
            clips.find({_CLIP})
            return Said(name, example(row, header, name, clips.film_strip(_CLIP), {}))


def _clips_of(config: RunConfig, split: Split) -> ShardSource | None:
    place: str | None = getattr(config.data, split)
    return None if place is None else open_set(config, TrainSet(place=place))


def _question(asked: Asked, known: Video | None) -> Question:
    options = list(asked.options)
    if options and asked.right and asked.right not in options:
        raise UserError(f"right answer: {asked.right[:60]!r}: is none of the options; copy one")
    if len(options) == 1:
        raise UserError("options: 1: give two or more, one a line, or none at all")
    own = next((q for q in known.questions if q.question == asked.text), None) if known else None
    right = asked.right or (options[0] if options else "unknown")
    return Question(
        id="1",
        question=asked.text,
        answer=right,
        options=options or None,
        answer_index=options.index(right) if options else None,
        type=own.type if own else "",
        statement=own.statement if own and asked.right == own.answer else None,
        spans=own.spans if own else None,
    )


def _packed(scratch: Path, clip: bytes, suffix: str, question: Question) -> Path:
    """A packed data set of the clip and its question."""
    file = scratch / f"clip{suffix.lower() if suffix[1:].isalnum() else '.mp4'}"
    file.write_bytes(clip)
    video = Video(id=_CLIP, path=file.name, questions=[question])
    (found,) = prepare_all([video], Ingest(scratch), threads=1)
    if isinstance(found, BadVideo):
        raise UserError(f"the clip cannot be used: {found.reason}")
    pack([video], scratch / "packed", root=scratch, verify=False)
    return scratch / "packed"
