"""Parameter groups and the learning rate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config import OptimSection
from launcher.optimizer import learning_rate_share, parameter_groups

from .toy import ToyModel


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
