"""From Gaussian centres to a weight for every frame (step 5), and where frames lie in [0, 1].

P = question-video pairs, T = frames, K = Gaussians.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frame_positions(num_frames: int, device: torch.device | None = None) -> Tensor:
    """x_t = t/T for t = 1..T (profile ``paper``), float32 (T,)."""
    return torch.arange(1, num_frames + 1, dtype=torch.float32, device=device) / num_frames


def label_positions(moments_PK: Tensor, num_frames: int) -> Tensor:
    """Frame indices 0..T-1 → positions on the same grid, float32 (P, K)."""
    return (moments_PK.float() + 1) / num_frames


def mixture_weights(centers_PK: Tensor, sigma: float, num_frames: int) -> Tensor:
    """p = sum_k g_k / max_t sum_k g_k, float32 (P, T) in (0, 1].

    ``centers_PK`` in [0, 1]. The factor 1/(sigma·sqrt(2·pi)) of g_k cancels in the quotient and is
    left out. Computed through a log-sum-exp: far from every centre the plain sum underflows to 0,
    and its gradient with it.
    """
    positions_T = frame_positions(num_frames, centers_PK.device)
    offset_PKT = (positions_T - centers_PK.float().unsqueeze(-1)) / sigma
    log_sum_PT = torch.logsumexp(-0.5 * offset_PKT.square(), dim=1)
    return (log_sum_PT - log_sum_PT.amax(dim=1, keepdim=True)).exp()
