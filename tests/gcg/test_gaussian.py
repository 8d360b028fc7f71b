from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcg.gaussian import ClosedTimeline, StepTimeline, Timeline, mixture_log_weights

GRIDS = [StepTimeline(), ClosedTimeline()]


def plain_mixture(centers: torch.Tensor, sigma: float, num_frames: int) -> torch.Tensor:
    """Step 5 as method.md writes it, in float64."""
    x = StepTimeline().positions(num_frames).double()
    g = torch.exp(-((x - centers.double().unsqueeze(-1)) ** 2) / (2 * sigma**2))
    total = (g / (sigma * (2 * torch.pi) ** 0.5)).sum(1)
    return total / total.amax(1, keepdim=True)


def weights_of(centers: torch.Tensor, sigma: float, num_frames: int) -> torch.Tensor:
    return mixture_log_weights(centers, sigma, StepTimeline().positions(num_frames)).exp()


def test_positions() -> None:
    assert StepTimeline().positions(4).tolist() == [0.25, 0.5, 0.75, 1.0]
    assert ClosedTimeline().positions(5).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("timeline", GRIDS)
def test_a_label_lies_on_its_frame(timeline: Timeline) -> None:
    moments = torch.tensor([[0, 7, 31]])
    expected = timeline.positions(32)[moments[0]]
    torch.testing.assert_close(timeline.of_frames(moments, 32)[0], expected)


@given(
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6),
    st.floats(0.02, 0.5),
    st.integers(2, 64),
)
def test_equals_the_equation(centers: list[float], sigma: float, num_frames: int) -> None:
    mu = torch.tensor([centers])
    weights = weights_of(mu, sigma, num_frames)
    assert weights.max() == 1.0
    # float32 against float64: exponents reach 50², where float32 keeps about four decimals.
    torch.testing.assert_close(
        weights.double(), plain_mixture(mu, sigma, num_frames), atol=2e-3, rtol=2e-2
    )


def test_narrow_gaussians_keep_a_finite_gradient() -> None:
    # At sigma = 0.001 every g_k underflows to 0 on most frames; the plain quotient has 0/0 there.
    centers = torch.tensor([[0.517, 0.93]], requires_grad=True)
    weights = weights_of(centers, 1e-3, 8)
    weights.sum().backward()
    assert weights.isfinite().all()
    assert centers.grad is not None
    assert centers.grad.isfinite().all()
