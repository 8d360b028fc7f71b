"""From Gaussian centres to a weight for every frame (step 5), and where frames lie in [0, 1].

P = question-video pairs, T = frames, K = Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Timeline(Protocol):
    """Where the T frames of a clip lie on the unit time axis."""

    def positions(self, num_frames: int, device: torch.device | None = None) -> Tensor:
        """x_t of every frame, float32 (T,)."""
        ...

    def of_frames(self, moments_PK: Tensor, num_frames: int) -> Tensor:
        """Frame indices 0..T-1 → positions on the same grid, float32 (P, K)."""
        ...


@dataclass(frozen=True)
class StepTimeline:
    """x_t = t/T for t = 1..T (profile ``paper``)."""

    def positions(self, num_frames: int, device: torch.device | None = None) -> Tensor:
        return torch.arange(1, num_frames + 1, dtype=torch.float32, device=device) / num_frames

    def of_frames(self, moments_PK: Tensor, num_frames: int) -> Tensor:
        return (moments_PK.float() + 1) / num_frames


@dataclass(frozen=True)
class ClosedTimeline:
    """x = linspace(0, 1, T): the first frame at 0, the last at 1 (profile ``released``)."""

    def positions(self, num_frames: int, device: torch.device | None = None) -> Tensor:
        return torch.linspace(0, 1, num_frames, dtype=torch.float32, device=device)

    def of_frames(self, moments_PK: Tensor, num_frames: int) -> Tensor:
        return moments_PK.float() / max(num_frames - 1, 1)


def mixture_log_weights(centers_PK: Tensor, sigma: float, positions_T: Tensor) -> Tensor:
    """log p with p = sum_k g_k / max_t sum_k g_k, float32 (P, T), at most 0.

    ``centers_PK`` in [0, 1]. The factor 1/(sigma·sqrt(2·pi)) of g_k cancels in the quotient and is
    left out. Computed through a log-sum-exp: far from every centre the plain sum underflows to 0,
    and its gradient with it.
    """
    offset_PKT = (positions_T - centers_PK.float().unsqueeze(-1)) / sigma
    log_sum_PT = torch.logsumexp(-0.5 * offset_PKT.square(), dim=1)
    return log_sum_PT - log_sum_PT.amax(dim=1, keepdim=True)
