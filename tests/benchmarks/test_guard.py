"""No hot piece does more work than was recorded; and a piece that does is noticed."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.guard import DRAWS, RECORDED, B, K, T, losses, measure, perturbed, torch_work
from benchmarks.selection import direct
from gcg.selection import seeded_noise


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, int]]:
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def test_hot_pieces_do_no_more_work_than_recorded(recorded: dict[str, dict[str, int]]) -> None:
    """After a change that is worth it: python -m benchmarks.guard --write."""
    found = measure()
    assert losses(found, recorded) == []
    assert found.keys() == recorded.keys()


def test_counts_are_the_same_each_time() -> None:
    assert torch_work(perturbed(K, diagonal=False)) == torch_work(perturbed(K, diagonal=False))


def test_a_fifth_more_is_a_loss() -> None:
    before = {"piece": {"operators": 100, "bytes": 1000}}
    assert losses({"piece": {"operators": 120, "bytes": 1000}}, before) == [
        "piece: operators: 120 where 100 were recorded"
    ]
    assert losses({"piece": {"operators": 110, "bytes": 900}}, before) == []
    (line,) = losses({"new": {"calls": 1}}, before)
    assert "--write" in line


def test_the_form_with_a_one_hot_of_each_draw_would_not_pass(
    recorded: dict[str, dict[str, int]],
) -> None:
    torch.manual_seed(0)
    weights = torch.rand(B, T).requires_grad_()
    noise, upstream = seeded_noise(torch.arange(B), DRAWS, T), torch.randn(B, K, T)

    def run() -> object:
        return torch.autograd.grad(direct(weights, noise, K), weights, upstream)

    lines = losses({"perturbed top-K": torch_work(run)}, recorded)
    assert any("bytes" in line for line in lines)
