from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from gcg.losses import candidate_priorities, contrastive_loss, regression_loss

SETTINGS = {"temperature": 0.1, "num_intra": 3, "num_inter": 5}


def case(pairs: int = 5, videos: int = 3, frames: int = 8, k: int = 2, width: int = 6):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    index = torch.arange(pairs) % videos
    others = index[:, None] != torch.arange(videos)
    weights = torch.rand(pairs, frames, generator=generator)
    seeds = torch.arange(100, 100 + pairs)
    return (
        draw(pairs, width),
        draw(pairs, k, width),
        draw(videos, frames, width),
        weights,
        index,
        others,
        seeds,
    )


def test_regression_is_the_sum_of_smooth_l1_to_frame_positions() -> None:
    centers = torch.tensor([[0.10, 0.90]])
    moments = torch.tensor([[0, 3]])  # positions 1/4 and 4/4
    beta = 0.12
    expected = (0.15 - beta / 2) + 0.5 * 0.1**2 / beta
    loss = regression_loss(centers, moments, 4, beta)
    torch.testing.assert_close(loss, torch.tensor([expected]))


def test_contrast_equals_equation_seven_term_by_term() -> None:
    description, positives, frames, weights, index, others, seeds = case()
    loss = contrastive_loss(
        description, positives, frames, weights, index, others, seeds, **SETTINGS
    )
    d, c_pos, c = (F.normalize(x, dim=-1) for x in (description, positives, frames))
    flat = c.flatten(0, 1)
    chosen = candidate_priorities(others.repeat_interleave(8, 1), seeds).topk(5).indices
    for pair in range(len(d)):
        lowest = weights[pair].argsort()[:3]
        negatives = sum(math.exp(float(d[pair] @ c[index[pair], i]) / 0.1) for i in lowest)
        negatives += sum(math.exp(float(d[pair] @ flat[i]) / 0.1) for i in chosen[pair])
        terms = []
        for k in range(2):
            right = math.exp(float(d[pair] @ c_pos[pair, k]) / 0.1)
            terms.append(-math.log(right / (right + negatives)))
        assert float(loss[pair]) == pytest.approx(sum(terms) / 2, rel=1e-4)


def test_inter_negatives_never_come_from_the_own_video_or_another_group() -> None:
    allowed = torch.tensor([[True, True, False, True, False, True]])
    priority = candidate_priorities(allowed, torch.tensor([7]))
    assert (priority[~allowed] == -1).all()
    assert (priority[allowed] >= 0).all()


def test_negatives_do_not_depend_on_what_else_is_in_the_micro_batch() -> None:
    alone = torch.tensor([[True, False, True, True]])
    among = torch.tensor([[False, False, True, False, True, True, False, False]])
    seeds = torch.tensor([11])
    small, large = candidate_priorities(alone, seeds), candidate_priorities(among, seeds)
    torch.testing.assert_close(small[alone], large[among])


def test_without_other_videos_only_intra_negatives_count() -> None:
    description, positives, frames, weights, index, others, seeds = case()
    nobody = torch.zeros_like(others)
    loss = contrastive_loss(
        description, positives, frames, weights, index, nobody, seeds, **SETTINGS
    )
    intra_only = contrastive_loss(
        description, positives, frames, weights, index, others, seeds,
        temperature=0.1, num_intra=3, num_inter=0,
    )  # fmt: skip
    torch.testing.assert_close(loss, intra_only)


def test_gradients_are_finite_without_any_negative() -> None:
    description, positives, frames, weights, index, others, seeds = case()
    positives.requires_grad_()
    loss = contrastive_loss(
        description, positives, frames, weights, index, torch.zeros_like(others), seeds,
        temperature=0.1, num_intra=0, num_inter=4,
    )  # fmt: skip
    loss.sum().backward()
    assert loss.abs().max() < 1e-6
    assert positives.grad is not None
    assert positives.grad.isfinite().all()
