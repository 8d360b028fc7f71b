from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gcg.selection import (
    GroundingSelector,
    OracleSelector,
    UniformSelector,
    hard_topk,
    perturbed_topk,
    seeded_noise,
)


def direct(weights: torch.Tensor, noise: torch.Tensor, k: int, scale: float):
    """Step 6 word by word: one-hot of every draw, their mean, and mean(onehot ⊗ z) / scale."""
    picked = (weights.unsqueeze(1) + scale * noise).topk(k, dim=-1).indices.sort(-1).values
    onehot = F.one_hot(picked, weights.shape[1]).to(weights.dtype)  # (P, n, K, T)
    jacobian = torch.einsum("pnkt,pnu->pktu", onehot, noise) / (noise.shape[1] * scale)
    return onehot.mean(1), jacobian


@pytest.mark.parametrize(("pairs", "frames", "k", "draws"), [(3, 32, 4, 500), (1, 5, 5, 7)])
def test_indicator_and_gradient_equal_the_direct_formulation(
    pairs: int, frames: int, k: int, draws: int
) -> None:
    torch.manual_seed(0)
    weights = torch.rand(pairs, frames, requires_grad=True)
    noise, upstream = torch.randn(pairs, draws, frames), torch.randn(pairs, k, frames)
    indicator = perturbed_topk(weights, noise, k, 0.05)
    indicator.backward(upstream)
    expected, jacobian = direct(weights.detach(), noise, k, 0.05)
    # Sums of 500 float32 terms in another order.
    torch.testing.assert_close(indicator, expected, atol=1e-5, rtol=0)
    full = torch.einsum("pkt,pktu->pu", upstream, jacobian)
    torch.testing.assert_close(weights.grad, full, atol=1e-4, rtol=1e-4)
    weights.grad = None
    perturbed_topk(weights, noise, k, 0.05, diagonal=True).backward(upstream)
    diagonal = torch.einsum("pkt,pktt->pt", upstream, jacobian)
    torch.testing.assert_close(weights.grad, diagonal, atol=1e-4, rtol=1e-4)


def test_the_full_gradient_is_the_one_of_the_expectation() -> None:
    """Moving a weight changes the expected indicator as the estimate says (finite difference)."""
    torch.manual_seed(0)
    scale, upstream = 0.3, torch.randn(1, 2, 4)
    weights = torch.tensor([[0.1, 0.4, 0.5, 0.3]], requires_grad=True)
    noise = torch.randn(1, 400_000, 4)
    perturbed_topk(weights, noise, 2, scale).backward(upstream)
    assert weights.grad is not None
    for frame in range(4):
        step = 0.05 * torch.eye(4)[frame]
        ahead, behind = (
            (perturbed_topk(weights.detach() + s, noise, 2, scale) * upstream).sum()
            for s in (step, -step)
        )
        # Sampling error of 400,000 draws, and the curvature over ±0.05.
        estimate = float(weights.grad[0, frame])
        assert float((ahead - behind) / 0.1) == pytest.approx(estimate, abs=0.04)


def test_each_moment_takes_one_frame_in_all() -> None:
    noise = torch.randn(2, 200, 16)
    indicator = perturbed_topk(torch.rand(2, 16), noise, 3, 0.05)
    torch.testing.assert_close(indicator.sum(-1), torch.ones(2, 3))


@pytest.mark.parametrize("case", ["mc_small", "oe_small"])
def test_reference_cases(shared, case: str) -> None:
    reference = np.load(shared / "parity" / f"{case}.npz")
    weights = torch.from_numpy(reference["ptk.x"]).requires_grad_()
    noise = torch.from_numpy(reference["ptk.noise"])
    expected = torch.from_numpy(reference["ptk.indicator"])
    indicator = perturbed_topk(weights, noise, expected.shape[1], 0.05, diagonal=True)
    indicator.backward(torch.from_numpy(reference["ptk.grad_out"]))
    torch.testing.assert_close(indicator, expected, atol=1e-5, rtol=0)
    gradient = torch.from_numpy(reference["ptk.grad_x"])
    # Gradients reach 12 here: the rounding of a float32 sum of 500 terms.
    torch.testing.assert_close(weights.grad, gradient, atol=1e-5, rtol=1e-5)


def test_hard_choice_is_sorted_and_prefers_the_earlier_of_equals() -> None:
    weights = torch.tensor([[0.1, 0.9, 0.5, 0.5, 0.5, 0.8]])
    assert hard_topk(weights, 3).tolist() == [[1, 2, 5]]


def test_noise_follows_the_pair_not_its_place() -> None:
    one = seeded_noise(torch.tensor([5, 9]), 3, 4)
    other = seeded_noise(torch.tensor([9, 7, 5]), 3, 4)
    assert torch.equal(one[0], other[2])
    assert torch.equal(one[1], other[0])
    assert not torch.equal(one[0], one[1])


def test_uniform_frames_are_the_middles_of_equal_parts() -> None:
    selection = UniformSelector(4)(torch.ones(2, 32), None, torch.tensor([0, 1]), True)
    assert selection.indices.tolist() == [[4, 12, 20, 28]] * 2
    assert selection.indicator.sum(-1).eq(1).all()


def test_oracle_takes_the_labels_and_says_when_there_are_none() -> None:
    moments = torch.tensor([[1, 3]])
    chosen = OracleSelector(2)(torch.ones(1, 5), moments, torch.tensor([0]), False)
    assert chosen.indices is moments
    with pytest.raises(ValueError, match="gcg label"):
        OracleSelector(2)(torch.ones(1, 5), None, torch.tensor([0]), False)


def test_grounding_is_soft_in_training_and_hard_in_evaluation() -> None:
    weights, seeds = torch.rand(2, 12), torch.tensor([3, 4])
    selector = GroundingSelector(3, 50, 0.3)
    soft, hard = (selector(weights, None, seeds, training) for training in (True, False))
    assert torch.equal(soft.indices, hard.indices)
    assert set(hard.indicator.unique().tolist()) == {0.0, 1.0}
    assert ((soft.indicator > 0) & (soft.indicator < 1)).any()
