"""Parameter groups and the learning rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config import OptimSection, parse_run_config
from launcher.errors import ConfigError
from launcher.training.optimizer import learning_rate_share, parameter_groups
from tests.spawn import run_ranks

from .toy import ToyModel, toy_config


def test_groups_have_their_own_rates_and_decay():
    model = ToyModel()
    optim = OptimSection(steps=10, lr=1.0, grounding_lr=7.0, weight_decay=0.5)
    groups = {group["name"]: group for group in parameter_groups(model, optim)}
    assert {name: (g["lr"], g["weight_decay"]) for name, g in groups.items()} == {
        "grounding.decayed": (7.0, 0.5),
        "grounding.plain": (7.0, 0.0),
        "rest.decayed": (1.0, 0.5),
        "rest.plain": (1.0, 0.0),
    }
    learning = [p for p in model.parameters() if p.requires_grad]
    assert sum(len(group["params"]) for group in groups.values()) == len(learning)
    assert len(groups["grounding.plain"]["params"]) == 3  # two biases and a norm's weight


def test_a_frozen_model_is_refused():
    model = ToyModel().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter to train"):
        parameter_groups(model, OptimSection(steps=1))


def test_warm_up_then_cosine():
    optim = OptimSection(steps=8, warmup_steps=4, min_lr_share=0.1)
    shares = [learning_rate_share(step, optim) for step in range(8)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[6] == pytest.approx(0.55)
    assert learning_rate_share(8, optim) == pytest.approx(0.1)


@given(
    steps=st.integers(1, 50), warmup=st.integers(0, 49), least=st.floats(0, 1), step=st.integers(0)
)
def test_a_share_is_a_share(steps: int, warmup: int, least: float, step: int):
    optim = OptimSection(steps=steps, warmup_steps=min(warmup, steps - 1), min_lr_share=least)
    assert 0 <= learning_rate_share(step, optim) <= 1
    assert learning_rate_share(optim.warmup_steps, optim) == pytest.approx(1)


def test_the_others_schedule_begins_after_the_projections_stage():
    late = OptimSection(steps=11, warmup_steps=4, projection_warmup_steps=3, min_lr_share=0.1)
    alone = OptimSection(steps=8, warmup_steps=4, min_lr_share=0.1)
    for group in ("rest.decayed", "grounding.plain"):
        shares = [learning_rate_share(step, late, group) for step in range(11)]
        assert shares[:3] == [0.0] * 3
        assert shares[3:] == [learning_rate_share(step, alone) for step in range(8)]
    projection = [learning_rate_share(step, late, "projection.plain") for step in range(11)]
    assert projection[:4] == [0.25, 0.5, 0.75, 1.0]
    assert projection[-1] > 0.1


def test_a_stage_must_leave_steps_for_the_rest(tmp_path: Path):
    tree = toy_config(tmp_path).model_dump(mode="json")
    tree["optim"]["projection_warmup_steps"] = 10
    with pytest.raises(ConfigError, match=r"projection_warmup_steps = 10: must be less than .* 10"):
        parse_run_config(tree)


def weights_by_stage(root: str) -> dict[int, list[dict[str, Any]]]:
    """By ZeRO stage: the toy's trained weights at first, after the projection's stage, at last."""
    from .test_engine import Attempt

    found: dict[int, list[dict[str, Any]]] = {}
    for zero in (2, 3):
        changes = {"engine__zero": zero, "engine__precision": "fp32"}
        attempt = Attempt(Path(root) / str(zero), optim__projection_warmup_steps=3, **changes)
        found[zero] = [attempt.masters()]
        for begin, end in ((0, 3), (3, 6)):
            attempt.train(begin, end)
            found[zero].append(attempt.masters())
    return found


def test_at_first_only_the_projection_learns(tmp_path: Path):
    """The toy's head stands for the projection. Weight decay moves nothing in its stage either."""
    by_zero, _ = run_ranks(weights_by_stage, 2, str(tmp_path))
    for first, staged, last in by_zero.values():
        for name, weight in first.items():
            projection = name.startswith("head.")
            assert weight.equal(staged[name]) != projection, name
            if not name.startswith("unused."):
                assert not staged[name].equal(last[name]), name
