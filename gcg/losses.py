"""The regression losses, one value a pair (step 7): the centres are pulled onto the pseudo-labels.

P = question-video pairs, T = frames, K = moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from gcg.gaussian import Timeline


class Labels(NamedTuple):
    """Pseudo-labels of a batch: ``moments`` (P, K) frame numbers, rising; ``similarity`` (P, T),
    what they were chosen by (None where the batch does not carry it)."""

    moments: Tensor
    similarity: Tensor | None


class Regression(Protocol):
    """L_reg of each pair, (P,), from the centres mu (P, K) and log p (P, T)."""

    def __call__(self, centers_PK: Tensor, log_weights_PT: Tensor, labels: Labels) -> Tensor: ...


@dataclass(frozen=True)
class PointRegression:
    """L_reg = sum_k SmoothL1(mu_k - w_k/T) (profile ``paper``): labels sorted in time, centres as
    given. SmoothL1 turns linear beyond ``beta``."""

    timeline: Timeline
    beta: float

    def __call__(self, centers_PK: Tensor, log_weights_PT: Tensor, labels: Labels) -> Tensor:
        target = self.timeline.of_frames(labels.moments, log_weights_PT.shape[1])
        loss = F.smooth_l1_loss(centers_PK.float(), target, beta=self.beta, reduction="none")
        return loss.sum(dim=1)


@dataclass(frozen=True)
class OrderedRegression:
    """Profile ``released``: mean SmoothL1 of (mu·(T-1), w), plus the order hinge, the mean over
    adjacent pairs of max(0, 1 + mu_j·(T-1) - mu_{j+1}·(T-1)). Distances are in frames."""

    beta: float

    def __call__(self, centers_PK: Tensor, log_weights_PT: Tensor, labels: Labels) -> Tensor:
        frames_PK = centers_PK.float() * (log_weights_PT.shape[1] - 1)
        target = labels.moments.float()
        loss = F.smooth_l1_loss(frames_PK, target, beta=self.beta, reduction="none").mean(dim=1)
        if frames_PK.shape[1] < 2:  # nothing is adjacent
            return loss
        return loss + (1 + frames_PK[:, :-1] - frames_PK[:, 1:]).clamp(min=0).mean(dim=1)


@dataclass(frozen=True)
class SoftRegression:
    """KL(softmax(s / temperature) || p / sum p): the weights are fitted to the labels' whole
    similarity row (label strategy ``soft``) instead of K points. ``standardise``: s with zero mean
    and unit variance over time, as what one temperature means differs from clip to clip."""

    temperature: float
    standardise: bool = False

    def __call__(self, centers_PK: Tensor, log_weights_PT: Tensor, labels: Labels) -> Tensor:
        if labels.similarity is None:
            raise ValueError(
                "model.loss.target = soft: the batch's labels carry no similarities; make them "
                "with `gcg label`"
            )
        similarity = labels.similarity.float()
        if self.standardise:
            similarity = similarity - similarity.mean(dim=1, keepdim=True)
            scale = similarity.square().mean(dim=1, keepdim=True).sqrt()
            similarity = similarity / scale.clamp(min=1e-6)
        target = torch.log_softmax(similarity / self.temperature, dim=1)
        fitted = torch.log_softmax(log_weights_PT, dim=1)
        return (target.exp() * (target - fitted)).sum(dim=1)
