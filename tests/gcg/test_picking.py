"""Ê = S·E, dense and where few of many large frames are chosen, against the plain product."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gcg.picking import pick, video_runs

K, T = 3, 10
# Just large enough to be added frame by frame.
LARGE = (65, 1009)


def product(indicator: Tensor, frames: Tensor, index: Tensor) -> Tensor:
    return torch.einsum("pkt,ptnd->pknd", indicator, frames[index])


def few_chosen(num_pairs: int, seed: int = 0) -> Tensor:
    """Two frames a moment, as a perturbed top-K that is nearly sure."""
    generator = torch.Generator().manual_seed(seed)
    indicator = torch.zeros(num_pairs, K, T)
    places = torch.rand(num_pairs, K, T, generator=generator).topk(2, dim=2).indices
    return indicator.scatter_(2, places, torch.tensor([0.75, 0.25]).expand(num_pairs, K, 2))


def test_pairs_of_a_video_are_one_run_wherever_they_lie() -> None:
    runs = video_runs(torch.tensor([2, 2, 0, 1, 1, 1, 2]))
    assert runs == [(2, 0, 2), (0, 2, 3), (1, 3, 6), (2, 6, 7)]
    assert video_runs(torch.tensor([], dtype=torch.int64)) == []


@pytest.mark.parametrize("shape", [(4, 5), LARGE])
@pytest.mark.parametrize("index", [[0, 0, 1], [1, 0, 1]])
def test_it_is_the_weighted_sum_of_a_pairs_own_frames(
    shape: tuple[int, int], index: list[int]
) -> None:
    indicator, frames = torch.rand(3, K, T), torch.randn(2, T, *shape)
    rows = torch.tensor(index)
    for chosen in (indicator, few_chosen(3), torch.zeros(3, K, T)):
        picked = pick(chosen, frames, video_runs(rows))
        torch.testing.assert_close(picked, product(chosen, frames, rows))


@pytest.mark.parametrize("shape", [(4, 5), LARGE])
def test_gradients_are_the_products(shape: tuple[int, int]) -> None:
    rows = torch.tensor([0, 0, 1])
    for indicator in (torch.rand(3, K, T), few_chosen(3)):
        frames, upstream = torch.randn(2, T, *shape), torch.randn(3, K, *shape)
        wanted = [indicator.requires_grad_(), frames.requires_grad_()]
        ours = torch.autograd.grad(pick(indicator, frames, video_runs(rows)), wanted, upstream)
        theirs = torch.autograd.grad(product(indicator, frames, rows), wanted, upstream)
        torch.testing.assert_close(ours[1], theirs[1])
        there = indicator != 0  # elsewhere nobody reads it
        torch.testing.assert_close(ours[0][there], theirs[0][there], atol=1e-3, rtol=1e-4)


def test_few_large_frames_are_not_multiplied_with_all_others() -> None:
    """A frame that is not chosen is not even read: it may hold anything."""
    indicator, frames = few_chosen(1), torch.randn(1, T, *LARGE)
    unread = indicator.sum(dim=(0, 1)) == 0
    assert unread.any()
    frames[0, unread] = torch.nan
    picked = pick(indicator.requires_grad_(), frames, video_runs(torch.tensor([0])))
    (gradient,) = torch.autograd.grad(picked.sum(), indicator)
    assert picked.isfinite().all()
    assert gradient.isfinite().all()


def test_half_precision_takes_the_indicator_as_it_is_kept() -> None:
    indicator, frames = few_chosen(2), torch.randn(1, T, 4, 5).bfloat16()
    picked = pick(indicator, frames, video_runs(torch.tensor([0, 0])))
    assert picked.dtype == torch.bfloat16
    torch.testing.assert_close(picked, product(indicator.bfloat16(), frames, torch.tensor([0, 0])))
