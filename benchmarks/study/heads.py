"""The grounding modules that are compared: gcg's own, and those that were tried beside them.

P = questions, T = frames, K = moments, N = input rows, C = joint width, D_G = generator width.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.study.variants import Variant
from gcg.config import GroundingConfig
from gcg.gaussian import StepTimeline
from gcg.generator import FrameScorer, GaussianGenerator, Located
from gcg.losses import Labels, PointRegression, Regression, SoftRegression

NUM_MOMENTS = 4
BETA = 0.1
WIDTH = 64


class Head(Protocol):
    """Frames (P, T, C), words (P, L, C) with their mask, input rows (P, T, N) → weights."""

    def __call__(self, frames: Tensor, words: Tensor, mask: Tensor, rows: Tensor) -> Located: ...


class Gaussians(GaussianGenerator):
    """gcg's generator, told any rows, with learned widths and a span head where asked for.

    Where gcg passes the pooled question, rows (P, T, N) are passed.
    """

    def __init__(self, variant: Variant, joint_width: int, num_frames: int) -> None:
        num_rows = len(variant.inputs)
        config = GroundingConfig(width=WIDTH, question_similarity=num_rows > 0)
        super().__init__(
            config,
            joint_width,
            num_frames,
            NUM_MOMENTS,
            timeline=StepTimeline(),
            sigma=variant.sigma,
        )
        if num_rows > 1:
            self.similarity = nn.Linear(num_rows, WIDTH)
        self.spread = _zeros(nn.Linear(WIDTH, NUM_MOMENTS)) if variant.widths else None
        self.ends = nn.Linear(WIDTH, 2) if variant.span_head else None
        self.end_logits: Tensor | None = None

    def likeness(self, frames_PTC: Tensor, question_PC: Tensor) -> Tensor:
        return question_PC

    def encode(self, *inputs: Tensor) -> Tensor:
        video_PTD = super().encode(*inputs)
        if self.ends is not None:
            self.end_logits = self.ends(video_PTD)
        return video_PTD

    def forward(self, *inputs: Tensor) -> Located:
        if self.spread is None:
            return super().forward(*inputs)
        video_PTD = self.encode(*inputs)
        pooled_PD = (self.pool(video_PTD).softmax(dim=1) * video_PTD).sum(dim=1)
        centers_PK = self.centers(pooled_PD).float().sigmoid()
        # From a seventh of sigma to seven times it.
        sigma_PK = self.sigma * torch.exp(2 * torch.tanh(self.spread(pooled_PD).float()))
        return Located(centers_PK, self._spread_weights(centers_PK, sigma_PK))

    def _spread_weights(self, centers_PK: Tensor, sigma_PK: Tensor) -> Tensor:
        grid_T = self.timeline.positions(self.num_frames)
        offset_PKT = (grid_T - centers_PK.unsqueeze(-1)) / sigma_PK.unsqueeze(-1)
        height_PKT = -0.5 * offset_PKT.square() - sigma_PK.log().unsqueeze(-1)
        log_sum = torch.logsumexp(height_PKT, dim=1)
        return log_sum - log_sum.amax(dim=1, keepdim=True)


class Scores(FrameScorer):
    """gcg's per-frame scores, told any rows. The score begins as the rows' mean."""

    def __init__(self, variant: Variant, joint_width: int, num_frames: int) -> None:
        super().__init__(GroundingConfig(width=WIDTH), joint_width, num_frames)
        num_rows = len(variant.inputs)
        if num_rows != 1:
            self.similarity = nn.Linear(num_rows, WIDTH) if num_rows else None
            self.gain = nn.Linear(max(num_rows, 1), 1, bias=False)
            nn.init.constant_(self.gain.weight, 1 / max(num_rows, 1))

    def likeness(self, frames_PTC: Tensor, question_PC: Tensor) -> Tensor:
        if question_PC.shape[-1]:
            return question_PC
        return frames_PTC.new_zeros(*frames_PTC.shape[:2], 1)


def make_head(variant: Variant, joint_width: int, num_frames: int) -> Gaussians | Scores:
    kind = Gaussians if variant.head == "gaussians" else Scores
    return kind(variant, joint_width, num_frames)


@dataclass(frozen=True)
class SortedRegression:
    """PointRegression of the centres in the order of time."""

    points: PointRegression

    def __call__(self, centers_PK: Tensor, log_weights_PT: Tensor, labels: Labels) -> Tensor:
        return self.points(centers_PK.sort(dim=1).values, log_weights_PT, labels)


@dataclass(frozen=True)
class MatchedRegression:
    """The least PointRegression over all K! assignments of centres to labels."""

    points: PointRegression

    def __call__(self, centers_PK: Tensor, log_weights_PT: Tensor, labels: Labels) -> Tensor:
        target = self.points.timeline.of_frames(labels.moments, log_weights_PT.shape[1])
        orders = torch.tensor(list(permutations(range(centers_PK.shape[1]))))
        target_POK = target[:, orders]
        given_POK = centers_PK.unsqueeze(1).expand_as(target_POK)
        loss = F.smooth_l1_loss(given_POK, target_POK, beta=self.points.beta, reduction="none")
        return loss.sum(dim=2).min(dim=1).values


def make_regression(variant: Variant) -> Regression:
    points = PointRegression(StepTimeline(), BETA)
    return {
        "points": points,
        "sorted": SortedRegression(points),
        "matched": MatchedRegression(points),
        "soft": SoftRegression(variant.temperature, standardise=True),
    }[variant.target]


def _zeros(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
