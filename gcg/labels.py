"""Pseudo-labels (step 3): which K frames the event description is most like.

T = frames, K = moments, P = question-video pairs, D_C = joint image-text width.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gcg.selection import hard_topk

STRATEGIES = ("topk",)


def similarities(frames_TC: Tensor, descriptions_PC: Tensor) -> Tensor:
    """s_t = cos(C_t, d) of each description with each frame of its clip, float32 (P, T)."""
    frames = F.normalize(frames_TC.float(), dim=-1)
    return F.normalize(descriptions_PC.float(), dim=-1) @ frames.T


def choose_moments(similarity_PT: Tensor, num_moments: int, strategy: str = "topk") -> Tensor:
    """K frame indices a pair, ascending, int64 (P, K).

    ``topk``: the K largest similarities (the paper). Raises ValueError for an unknown strategy.
    """
    if strategy != "topk":
        raise ValueError(f"label strategy {strategy!r} is unknown; choose one of {STRATEGIES}")
    return hard_topk(similarity_PT, num_moments)
