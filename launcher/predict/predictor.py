"""A trained model that is asked about clips, in any mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gcg.config import Mode
from gcg.errors import ModelError
from gcg.model import GCGModel
from gcg.processor import GCGProcessor, Prediction, event
from gcg.questions import Query
from gcg.saved import CONFIG
from launcher.export.run import Weights, open_run
from launcher.predict.clips import LoadedClip
from launcher.storage.places import run_place


@dataclass(frozen=True)
class Asked:
    """A question about a clip; ``answer`` is the right one, which mode ``oracle`` needs, and
    ``statement`` says what happened where the two together do not say it well."""

    query: Query
    answer: str | None = None
    statement: str | None = None


@dataclass(frozen=True)
class Said:
    """What a model said to a question about a clip, in a mode."""

    clip: LoadedClip
    asked: Asked
    mode: Mode
    prediction: Prediction

    def row(self) -> dict[str, Any]:
        """As plain JSON values; times in seconds."""
        found, times = self.prediction, self.clip.times
        return {
            "video": str(self.clip.path),
            "question": self.asked.query.question,
            "options": None if self.asked.query.options is None else [*self.asked.query.options],
            "mode": self.mode,
            "answer": found.answer,
            "confidence": round(found.confidence, 6),
            "probabilities": found.probabilities and [round(p, 6) for p in found.probabilities],
            "span": None if found.span is None else [round(each, 3) for each in found.span],
            "moments": [
                {"time": round(times[i], 3), "frame": i, "weight": round(found.weights[i], 6)}
                for i in found.selected
            ],
            "duration": round(self.clip.duration, 3),
            "times": [round(time, 3) for time in times],
            "weights": [round(weight, 6) for weight in found.weights],
        }


class Predictor:
    """Asks a model; ``mode`` None is the mode it was trained in.

    Raises:
        ModelError: the model reads features of another encoder than its own, or has no such mode.
    """

    def __init__(self, model: GCGModel, processor: GCGProcessor, mode: Mode | None = None) -> None:
        if model.config.input == "features":
            raise ModelError(
                "model.input = features: this model reads what another encoder made of frames, not "
                "a video's pixels; ask one that was trained on clips, or on what `gcg extract` made"
            )
        self.mode: Mode = mode or model.config.mode
        own = self.mode == model.config.mode
        self.model = model if own else model.in_mode(self.mode)
        self.processor = processor

    @classmethod
    def load(
        cls,
        place: str | Path,
        *,
        mode: Mode | None = None,
        weights: Weights = "final",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Predictor:
        """From an exported model, a folder or a hub name, or from a run's folder or URL.

        Args:
            place: which.
            mode: grounding, uniform or oracle; None: as trained.
            weights: of a run, which.
            device: where it computes.
            dtype: of its weights, and what it computes in.
        """
        model, processor = load_model(place, weights, device, dtype)
        return cls(model, processor, mode)

    def events(self, asked: Sequence[Asked]) -> list[str] | None:
        """What mode oracle looks for, a sentence a question; None in other modes.

        Raises:
            ModelError: a question without its answer, or one that says nothing.
        """
        if self.mode != "oracle":
            return None
        for each in asked:
            if not each.answer:
                raise ModelError(
                    f"question {each.query.question[:60]!r}: mode = oracle peeks at the right "
                    "answer to find its moment; give it with --answer, or as a line's answer, or "
                    "choose another mode"
                )
        return [each.statement or event(each.query.question, each.answer or "") for each in asked]

    def __call__(self, clips: Sequence[LoadedClip], asked: Sequence[Sequence[Asked]]) -> list[Said]:
        """Ask all at once; ``asked[i]`` are the questions about ``clips[i]``. Answers come in that
        order.

        Raises:
            ModelError: as :meth:`events`.
        """
        pairs = [(row, each) for row, own in enumerate(asked) for each in own]
        events = self.events([each for _, each in pairs])
        inputs = self.processor.batch(
            torch.stack([clip.pixels for clip in clips]),
            [row for row, _ in pairs],
            [each.query for _, each in pairs],
            events,
        )
        written = any(each.query.options is None for _, each in pairs)
        answers = self.model.answer(
            inputs,
            max_new_tokens=self.model.config.llm.max_answer_tokens if written else None,
            certainty=written,
        )
        found = self.processor.predictions(
            answers,
            [each.query.options for _, each in pairs],
            [clips[row].duration for row, _ in pairs],
        )
        return [
            Said(clips[row], each, self.mode, prediction)
            for (row, each), prediction in zip(pairs, found, strict=True)
        ]


def is_run(at: Path) -> bool:
    """Whether a place is the folder of a run, not of an exported model."""
    return (at / "config.yaml").is_file() and not (at / CONFIG).is_file()


def load_model(
    place: str | Path,
    weights: Weights = "final",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[GCGModel, GCGProcessor]:
    """The model of an exported folder, a hub name, a run's folder or its URL."""
    at = run_place(place)
    if is_run(at):
        run = open_run(at, weights)
        return run.model(dtype, device), GCGProcessor(run.config.model.served())
    model = GCGModel.from_pretrained(place, dtype=dtype, device=device)
    return model, GCGProcessor.from_pretrained(place)
