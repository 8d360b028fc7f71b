"""`gcg label --compare`: how well each label strategy finds the gold spans.

Gold spans judge the labels here; no strategy sees them. Clips are decoded and encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dataloaders.manifest import Question
from dataloaders.moments.questions import BALANCED, UNBALANCED
from dataloaders.open_source import open_source
from dataloaders.storage.options import StorageOptions
from gcg.build import encoder_fingerprint
from gcg.config import GCGConfig
from gcg.gaussian import mixture_log_weights
from gcg.labels import STRATEGIES, Soft, Strategy, direction
from gcg.metrics import cluster_interval, iou_iop, span_of_weights
from gcg.profiles import resolve_profile
from gcg.selection import UniformSelector, hard_topk
from launcher.errors import UserError
from launcher.labelling.describe import DescriptionWriter, OnQuestion, TemplateWriter
from launcher.labelling.label import ClipEvidence, EvidenceMaker, reading, texts_folder

GROUPS = ("balanced", "unbalanced")
# Of the clip; half of NExT-GQA's questions with before or after in them have shorter gold spans.
SHORT = 0.125
# What labels can be measured against: none of them is a strategy.
UNIFORM, CEILING = "uniform", "best possible"


@dataclass
class Scores:
    """Of one strategy, a value a question: share of labels inside gold, IoP of their span."""

    hits: list[float] = field(default_factory=list)
    iop: list[float] = field(default_factory=list)


def is_unbalanced(question: Question, duration: float) -> bool:
    """Whether a question names a long event and is answered by a short one.

    The sample corpus says so in its types. Elsewhere it is taken to be so where the question has
    "before" or "after" in it and its gold spans cover less than an eighth of the clip.
    """
    if question.type in (*BALANCED, *UNBALANCED):
        return question.type in UNBALANCED
    covered = sum(end - start for start, end in question.spans or ())
    return direction(question.question) != 0 and covered < SHORT * duration


def compare_labels(
    data: Path,
    config: GCGConfig,
    extra: Sequence[Strategy] = (),
    *,
    storage: StorageOptions | None = None,
    writer: DescriptionWriter | None = None,
    threads: int = 2,
    on_video: Callable[[], object] = lambda: None,
    on_question: OnQuestion = lambda count, total: None,
) -> dict[str, Any]:
    """Figures of every strategy with its defaults, and of ``extra``, on the questions of ``data``
    that have gold spans.

    ``strategies`` has for each group of :data:`GROUPS` ``hits``, the share of labels whose frame
    lies in a gold span, and ``miop``, the mean IoP of the span that the labels' mixture of
    Gaussians gives (for ``soft`` the target distribution), as evaluation makes it of a prediction,
    both with a 95 % interval (bootstrap over videos); and ``by_type``.

    Raises:
        DataError: the data cannot be read.
        UserError: none of its questions has gold spans.
    """
    plain = [kind() for kind in STRATEGIES.values()]
    strategies = {each.spelled: each for each in (*plain, *extra)}
    writer = writer or TemplateWriter()
    source = open_source(data, storage)
    try:
        config = reading(config, source)
        lines = writer.prepare(texts_folder(source), source, on_question)
        encoder = EvidenceMaker(config, writer)
        judge = _Judge(config, strategies)
        for number in range(len(source.shards)):
            for clip in encoder.shard(source, number, threads, on_video):
                judge.add(clip)
        fingerprint = source.fingerprint
    finally:
        source.close()
    if not judge.questions:
        raise UserError(
            f"{data}: no question has gold spans; labels can be compared only where the manifest "
            "has them (such as a validation split)"
        )
    return {
        "data": str(data),
        "fingerprint": fingerprint,
        "encoder": encoder_fingerprint(config),
        "num_frames": config.num_frames,
        "num_moments": config.num_moments,
        "writer": writer.identity,
        "notes": lines,
        **judge.figures(),
    }


class _Judge:
    """Clips in, figures of every strategy out."""

    def __init__(self, config: GCGConfig, strategies: Mapping[str, Strategy]) -> None:
        self._frames, self._moments = config.num_frames, config.num_moments
        self._profile = resolve_profile(config)
        self._soft_temperature = config.loss.soft_temperature
        self._strategies = strategies
        self._scores = {name: Scores() for name in (*strategies, UNIFORM, CEILING)}
        self.questions: list[tuple[str, str, bool]] = []  # video, type, unbalanced

    def add(self, clip: ClipEvidence) -> None:
        video, duration = clip.video, clip.video.duration
        rows = [i for i, question in enumerate(video.questions) if question.spans]
        if duration is None or not rows:
            return
        inside_PT = torch.stack([self._inside(video.questions[i], duration) for i in rows])
        for i in rows:
            question = video.questions[i]
            self.questions.append((video.id, question.type, is_unbalanced(question, duration)))
        spans = [[(start, end) for start, end in video.questions[i].spans or ()] for i in rows]
        chosen = {
            name: strategy.choose(clip.evidence, self._moments).moments[rows]
            for name, strategy in self._strategies.items()
        }
        uniform = UniformSelector(self._moments)
        chosen[UNIFORM] = uniform(inside_PT.float(), None, torch.zeros(0), False).indices
        chosen[CEILING] = hard_topk(inside_PT.float(), self._moments)
        weights = {name: self._mixture(moments) for name, moments in chosen.items()}
        # Its target is no mixture around points, but the whole row.
        weights[Soft.name] = self._soft_target(clip.evidence.description[rows])
        for name, moments_PK in chosen.items():
            scores = self._scores[name]
            scores.hits += inside_PT.gather(1, moments_PK).float().mean(dim=1).tolist()
            for row, gold in zip(weights[name].tolist(), spans, strict=True):
                scores.iop.append(iou_iop(span_of_weights(row, duration), gold)[1])

    def _inside(self, question: Question, duration: float) -> Tensor:
        """Which frames, sampled from the middles of T equal parts, lie in a gold span, (T,)."""
        times = (torch.arange(self._frames) + 0.5) / self._frames * duration
        inside = torch.zeros(self._frames, dtype=torch.bool)
        for start, end in question.spans or ():
            inside |= (times >= start) & (times <= end)
        return inside

    def _soft_target(self, similarity_PT: Tensor) -> Tensor:
        """What ``loss.target: soft`` fits the mixture to, (P, T)."""
        return torch.softmax(similarity_PT / self._soft_temperature, dim=1)

    def _mixture(self, moments_PK: Tensor) -> Tensor:
        """The mixture of Gaussians whose centres are the labels, (P, T)."""
        timeline = self._profile.timeline
        centers = timeline.of_frames(moments_PK, self._frames)
        grid = timeline.positions(self._frames)
        return mixture_log_weights(centers, self._profile.sigma, grid).exp()

    def figures(self) -> dict[str, Any]:
        videos = np.array([video for video, _, _ in self.questions])
        types = np.array([kind for _, kind, _ in self.questions])
        unbalanced = np.array([flag for _, _, flag in self.questions])
        groups = {"balanced": ~unbalanced, "unbalanced": unbalanced}
        strategies: dict[str, Any] = {}
        for name, scores in self._scores.items():
            hits, iop = np.array(scores.hits), np.array(scores.iop)
            made = self._strategies.get(name)
            strategies[name] = {
                "options": made.options if made else {},
                **{
                    group: _mean("hits", hits[member], videos[member])
                    | _mean("miop", iop[member], videos[member])
                    for group, member in groups.items()
                },
                "by_type": {
                    str(kind): {
                        "hits": float(hits[types == kind].mean()),
                        "miop": float(iop[types == kind].mean()),
                        "questions": int((types == kind).sum()),
                    }
                    for kind in np.unique(types)
                },
            }
        counts = {
            group: {"questions": int(member.sum()), "videos": len(np.unique(videos[member]))}
            for group, member in groups.items()
        }
        return {"groups": counts, "strategies": strategies}


def _mean(name: str, values: np.ndarray, videos: np.ndarray) -> dict[str, Any]:
    if not len(values):
        return {name: None, f"{name}_interval": None}
    interval = list(cluster_interval(values, videos))
    return {name: float(values.mean()), f"{name}_interval": interval}
