"""Steps 1 and 2 of the method: what the frozen encoders make of frames and texts.

V = videos, P = question-video pairs, T = frames, L = text tokens, O = options, N_I = tokens per
frame, D_I = vision width, D_C = joint image-text width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gcg.config import VisionConfig
from gcg.text import SentenceTower, TextTower
from gcg.vision import VisionTower, frames_through


class Encoded(NamedTuple):
    """What the frozen encoders make of a batch (steps 1 and 2), without gradient.

    ``tokens`` E (V, T, N_I, D_I), ``joint`` C (V, T, D_C), ``question`` pooled (P, D_C); ``texts``
    (P, L, D_C) with ``text_mask`` (P, L): what the generator reads of the question. Only while
    training: pooled ``description`` (P, D_C). Only where the profile reads them: pooled ``options``
    (P, O, D_C) with ``option_mask`` (P, O), and ``answer`` (P, D_C).
    """

    tokens: Tensor
    joint: Tensor
    question: Tensor
    texts: Tensor
    text_mask: Tensor
    description: Tensor | None
    options: Tensor | None
    option_mask: Tensor | None
    answer: Tensor | None


def encode_frames(
    vision: VisionTower | None,
    pixels: Tensor | None,
    tokens: Tensor | None,
    embeddings: Tensor | None,
    *,
    settings: VisionConfig,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """E (V, T, N_I, D_I) and C (V, T, D_C), computed or, where ``vision`` is None, as they were
    stored.

    Raises:
        ValueError: the batch has pixels where features are wanted, or the other way round.
    """
    if vision is None:
        if tokens is None or embeddings is None:
            raise ValueError("model.input = features, but the batch has clips; use input=video")
        return tokens.to(dtype), embeddings.to(dtype)
    if pixels is None:
        raise ValueError("model.input = video, but the batch has features; use input=features")
    return frames_through(
        vision,
        pixels.to(dtype),
        frames_per_pass=settings.frames_per_pass,
        train=settings.train,
    )


def pooled_text(
    tower: TextTower | SentenceTower, ids_PL: Tensor | None, mask_PL: Tensor | None
) -> Tensor | None:
    """Pooled texts (P, D_C); None for none."""
    return None if ids_PL is None or mask_PL is None else tower(ids_PL, mask_PL)[1]


def pooled_options(
    tower: TextTower | SentenceTower, ids_POL: Tensor | None, mask_POL: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Pooled options (P, O, D_C) and which are there (P, O)."""
    if ids_POL is None or mask_POL is None:
        return None, None
    pooled = tower(ids_POL.flatten(0, 1), mask_POL.flatten(0, 1))[1]
    there_PO = mask_POL.any(dim=2)
    pooled_POC = pooled.unflatten(0, there_PO.shape)
    return pooled_POC.masked_fill(~there_PO[:, :, None], 0.0), there_PO
