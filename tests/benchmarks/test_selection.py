"""The selection benchmark runs, and the two ways it compares agree."""

from __future__ import annotations

import pytest
import torch

from benchmarks.selection import counted, direct, main


def test_both_ways_agree_in_value_and_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 50, 12, generator=generator)
    upstream = torch.randn(3, 4, 12, generator=generator)
    weights = torch.rand(3, 12, generator=generator).requires_grad_()
    (one, other) = (select(weights, noise, 4) for select in (direct, counted))
    torch.testing.assert_close(one, other)
    gradients = [torch.autograd.grad(x, weights, upstream)[0] for x in (one, other)]
    # Hundreds of terms of size 20 in another order.
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_runs_and_prints_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--values", "32", "--rounds", "1", "--draws", "50"]) == 0
    said = capsys.readouterr().out
    assert said.count("counted / direct: time") == 2
