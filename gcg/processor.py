"""Frames, questions and options in, the model's keyword arguments out; and answers into words.

V = videos, P = question-video pairs, T = frames, O = options, S = pixels of a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gcg.answers import Answers, option_probabilities
from gcg.config import GCGConfig
from gcg.description import describe
from gcg.errors import ModelError
from gcg.metrics import span_of_weights
from gcg.pixels import pixel_values
from gcg.presets import resolve_preset
from gcg.questions import Query, QuestionEncoder, question_encoder
from gcg.saved import read_saved
from gcg.tokens import TokenSet, load_tokens


@dataclass(frozen=True)
class Prediction:
    """One question's answer.

    ``confidence``: of an option, its probability if one of the options is right; of a written
    answer the geometric mean of its tokens' probabilities (not calibrated: it orders answers).
    ``probabilities``: of all options, or None. ``weights``: of the T frames, 1 at the heaviest.
    ``selected``: the K frames it was answered from. ``span``: start and end of what it is about, in
    seconds, None where the clip's duration is unknown. ``centers``: of the Gaussians, in [0, 1];
    none where it looks without.
    """

    answer: str
    confidence: float
    probabilities: list[float] | None
    weights: list[float]
    selected: list[int]
    span: tuple[float, float] | None
    centers: list[float]


class GCGProcessor:
    """What stands before and after a model: pixels, token ids, words.

    Args:
        config: the model's configuration.
        tokens: its tokenizers; by default those of its checkpoints.

    ``num_frames``: T, how many frames of a clip the model reads; ``image_size``: S.
    """

    def __init__(self, config: GCGConfig, tokens: TokenSet | None = None) -> None:
        self.config = config
        self.tokens = tokens or load_tokens(config)
        self.texts: QuestionEncoder = question_encoder(config, self.tokens)
        self.num_frames = config.num_frames
        self.image_size = resolve_preset(config).image_size

    @classmethod
    def from_pretrained(cls, place: str | Path) -> GCGProcessor:
        """The processor of the model in a folder that `gcg export` wrote, or on the hub.

        Raises:
            ModelError: it is no such folder, or is damaged.
        """
        return cls(read_saved(place).local)

    def frame_indices(self, frame_count: int) -> list[int]:
        """The T frames to read of a clip: the middle one of each of T equal parts of it."""
        if frame_count < 1:
            raise ModelError(f"frame_count = {frame_count}: a clip has at least one frame")
        count = self.num_frames
        return [(2 * k + 1) * frame_count // (2 * count) for k in range(count)]

    def __call__(
        self,
        frames: Any,
        questions: str | Sequence[str],
        options: Sequence[str] | Sequence[Sequence[str] | None] | None = None,
        *,
        answers: Sequence[str] | None = None,
    ) -> dict[str, Tensor | None]:
        """What :meth:`gcg.model.GCGModel.answer` is asked: P questions on one clip.

        Args:
            frames: T frames, uint8 RGB: (T, H, W, 3), or a list of (H, W, 3) arrays or images; or
                a float tensor (T, 3, S, S), which are pixel values already.
            questions: one, or P.
            options: of one question a list of texts; of P a list of those, None for an open one.
            answers: the right ones, P: mode ``oracle`` looks for the frames that show them.

        Returns:
            ``pixel_values`` (1, T, 3, S, S), ``video_index`` (P,), ids and masks (P, L),
            ``option_ids`` (P, O, L) or None.

        Raises:
            ModelError: another number of frames, or no questions, or options or answers that do not
                fit.
        """
        asked = queries(questions, options)
        events = None
        if answers is not None:
            if len(answers) != len(asked):
                raise ModelError(
                    f"answers: {len(answers)} for {len(asked)} questions; give one each"
                )
            events = [event(q.question, a) for q, a in zip(asked, answers, strict=True)]
        return self.batch(self._pixels(frames).unsqueeze(0), [0] * len(asked), asked, events)

    def batch(
        self,
        pixels: Tensor,
        video_index: Sequence[int],
        asked: Sequence[Query],
        events: Sequence[str] | None = None,
    ) -> dict[str, Tensor | None]:
        """As a call, for several clips at once.

        Args:
            pixels: (V, T, 3, S, S) float32, of :func:`gcg.pixels.pixel_values`.
            video_index: for each of P questions, which clip it is about.
            asked: the questions with their options.
            events: what happened, a sentence each (:func:`event`), which mode ``oracle`` looks for.
        """
        inputs: dict[str, Tensor | None] = {
            "pixel_values": pixels,
            "video_index": torch.tensor(video_index, dtype=torch.int64),
            **self.texts.asked(asked),
        }
        if events is not None:
            ids, mask = self.texts.descriptions(events)
            inputs |= {"description_ids": ids, "description_mask": mask}
        return inputs

    def predictions(
        self,
        answers: Answers,
        options: Sequence[Sequence[str] | None] | None = None,
        duration: float | Sequence[float] | None = None,
    ) -> list[Prediction]:
        """What a model said, in words.

        Args:
            answers: of :meth:`gcg.model.GCGModel.answer`.
            options: of each of the P questions, as it was asked.
            duration: of the clip in seconds, or of each question's; spans are counted by it.

        Raises:
            ModelError: options or durations of another number of questions, or a question without
                options that was not answered in words.
        """
        count = len(answers.weights)
        for name, given in (("options", options), ("duration", duration)):
            if isinstance(given, Sequence) and len(given) != count:
                raise ModelError(f"{name}: {len(given)} for {count} questions; give one each")
        written = None if answers.tokens is None else self.tokens.decode(answers.tokens.tolist())
        sure = None if answers.certainty is None else answers.certainty.tolist()
        scores = answers.option_scores
        chances = None if scores is None else option_probabilities(scores).tolist()
        found = []
        for i, weights in enumerate(answers.weights.tolist()):
            own = None if options is None else options[i]
            if own is not None and chances is not None:
                likely = chances[i][: len(own)]
                best = max(range(len(own)), key=likely.__getitem__)
                answer, confidence = own[best], likely[best]
            else:
                if written is None:
                    raise ModelError(
                        f"options: none for question {i}, which the model was not asked to answer "
                        "in words; give the options that it was asked with, or ask with "
                        "max_new_tokens"
                    )
                likely, answer = None, written[i].strip()
                confidence = float("nan") if sure is None else sure[i]
            seconds = duration[i] if isinstance(duration, Sequence) else duration
            span = None if not seconds else span_of_weights(weights, seconds)
            chosen, centers = answers.selected[i].tolist(), answers.centers[i].tolist()
            found.append(Prediction(answer, confidence, likely, weights, chosen, span, centers))
        return found

    def _pixels(self, frames: Any) -> Tensor:
        size = self.image_size
        if isinstance(frames, Tensor) and frames.is_floating_point():
            if frames.shape[1:] != (3, size, size):
                raise ModelError(
                    f"frames: {tuple(frames.shape)} {frames.dtype}: pixel values must be (T, 3, "
                    f"{size}, {size}); or give uint8 (T, H, W, 3)"
                )
            pixels = frames.float()
        else:
            pixels = pixel_values(frames, size)
        if len(pixels) != self.num_frames:
            raise ModelError(
                f"frames: {len(pixels)}: this model reads {self.num_frames} frames of a clip; take "
                "those that frame_indices(frame_count) names"
            )
        return pixels


def event(question: str, answer: str) -> str:
    """The sentence that says what a question and its right answer are about.

    Raises:
        ModelError: one of them is empty, or nothing but punctuation.
    """
    try:
        return describe(question, answer)
    except ValueError as error:
        raise ModelError(f"{error}; mode oracle looks for what the answer says") from None


def queries(questions: Any, options: Any = None) -> list[Query]:
    """Questions as they are asked: one with its options, or several with a list of options each.

    Raises:
        ModelError: none, an empty one, or options that do not fit.
    """
    if isinstance(questions, str):
        questions, options = [questions], None if options is None else [options]
    if not questions:
        raise ModelError("questions: none given; ask at least one")
    options = [None] * len(questions) if options is None else list(options)
    if len(options) != len(questions):
        raise ModelError(
            f"options: {len(options)} lists for {len(questions)} questions; give one each, None "
            "for an open question"
        )
    asked = []
    for question, own in zip(questions, options, strict=True):
        if not question.strip():
            raise ModelError("question: is empty; ask something")
        if own is not None and (isinstance(own, str) or len(own) < 2 or not all(own)):
            raise ModelError(f"options = {own!r}: must be two texts or more; or leave them out")
        asked.append(Query(question, None if own is None else tuple(own)))
    return asked
