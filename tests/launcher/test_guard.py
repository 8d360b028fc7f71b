"""Steps whose numbers are wrong: left out on all ranks together, counted, bounded; spikes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from launcher.config import SafetySection
from launcher.errors import RunStoppedError
from launcher.training.guard import Guard
from launcher.training.rng import seed_everything
from launcher.training.step import StepResult
from tests.spawn import run_ranks

from .test_engine import Attempt, same
from .toy import ToyBatch, ToyModel, ToyOutput, toy_micro_batches, toy_num_pairs

Case = tuple[int, str, tuple[str, ...], str]
# ZeRO stage, precision, what is offloaded, and what goes wrong.
CASES: list[Case] = [
    *(
        (zero, precision, (), kind)
        for zero, precision in ((1, "bf16"), (2, "fp32"), (3, "bf16"))
        for kind in ("loss", "gradient", "spike")
    ),
    (1, "fp32", ("optimizer",), "loss"),
    (2, "bf16", ("optimizer",), "gradient"),
    (3, "bf16", ("optimizer", "weights"), "loss"),
]
BAD_STEP = 2


class Rooted(ToyModel):
    """Its loss is finite on features of nothing but 7, and its gradient is not."""

    def forward(self, features: Tensor, targets: Tensor, extra: Tensor | None = None) -> ToyOutput:
        vqa, reg, con = (getattr(super(Rooted, self).forward(features, targets), name)
                         for name in ("loss_vqa", "loss_reg", "loss_con"))  # fmt: skip
        if bool((features == 7).all()):
            reg = reg + (self.head.weight.float().sum() * 0).sqrt()
        return ToyOutput(vqa, reg, con)


@dataclass(frozen=True)
class Found:
    """What one rank saw of a run with one bad step."""

    results: list[StepResult]
    stood_still: bool
    as_if_left_out: bool


def run_cases(root: str) -> dict[Case, Found]:
    return {case: run_case(Path(root), case) for case in CASES}


def run_case(root: Path, case: Case) -> Found:
    zero, precision, offload, kind = case
    root = root / f"{zero}-{precision}-{len(offload)}-{kind}"
    changes: dict[str, Any] = {
        "engine__offload": list(offload),
        "engine__zero": zero,
        "engine__precision": precision,
        "safety__on_spike": "skip" if kind == "spike" else "go_on",
    }
    attempt = Attempt(root / "with", model=Rooted(), **changes)
    results = attempt.train(0, BAD_STEP)
    before = attempt.masters()
    if kind == "spike":
        for _ in range(attempt.config.safety.spike_window):
            attempt.guard.good(1e-3)
    results.append(bad_step(attempt, kind))
    still = same(before, attempt.masters())
    attempt.guard.load_state_dict(Guard(attempt.config.safety).state_dict())
    seed_everything(attempt.rank)  # the toy's dropout is not seeded by sample, as the model's is
    results += attempt.train(BAD_STEP + 1, 6)
    final = attempt.masters()
    attempt.engine.destroy()

    other = Attempt(root / "without", model=Rooted(), **changes)
    other.train(0, BAD_STEP)
    seed_everything(other.rank)
    other.train(BAD_STEP + 1, 6)
    alike = same(final, other.masters())
    other.engine.destroy()
    return Found(results, still, alike)


def bad_step(attempt: Attempt, kind: str) -> StepResult:
    """The first micro-batch of rank 1, the second to last of the accumulation, is to blame."""
    batch, micro = attempt.config.data.global_batch, attempt.config.engine.micro_batch
    own = toy_micro_batches(BAD_STEP, attempt.rank, attempt.world_size, batch, micro)
    if attempt.rank == 1 and kind == "loss":
        own[0].features[1] = math.nan
    if attempt.rank == 1 and kind == "gradient":
        own[0] = ToyBatch(torch.full_like(own[0].features, 7.0), own[0].targets)
    return attempt.step(own, BAD_STEP, toy_num_pairs(BAD_STEP, batch))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Case, Found]]:
    return run_ranks(run_cases, 2, str(tmp_path_factory.mktemp("guard")))


@pytest.mark.parametrize("case", CASES)
def test_a_bad_step_is_left_out_on_all_ranks_together(found, case: Case):
    kind = case[-1]
    by_rank = [ranks[case] for ranks in found]
    for own in by_rank:
        assert [r.bad for r in own.results] == [None, None, kind, None, None, None]
        assert own.results[BAD_STEP].grad_norm == math.inf
        assert all(math.isfinite(r.grad_norm) for r in own.results if r.bad is None)
        assert own.stood_still
        assert own.as_if_left_out
    first, second = (own.results[BAD_STEP].bad_pairs for own in by_rank)
    if kind == "loss":
        assert (first, second) == ((), ((0, 1),))
    else:  # nobody in particular is to blame
        assert len(first) > 2
        assert len(second) > 2


def guard(**changes: Any) -> Guard:
    return Guard(SafetySection(**changes))


def test_the_budget_stops_the_run_with_a_line():
    own = guard(max_bad_steps=2)
    own.bad(5, "loss", "v1/q1")
    own.bad(6, "gradient", "v1/q2")
    with pytest.raises(RunStoppedError) as stopped:
        own.bad(9, "loss", "v3/q1 and 2 more")
    (line,) = stopped.value.lines
    assert line.startswith("step 9: the loss is not a finite number (v3/q1 and 2 more)")
    assert "2 steps were left out before, safety.max_bad_steps = 2" in line


def test_a_spike_is_measured_against_the_median():
    own = guard(on_spike="skip", spike_window=4, spike_factor=2.0)
    own.good(1.0)
    assert own.spike_limit() == math.inf  # too early to know
    for loss in (1.1, 0.9, 40.0):  # one wild loss does not move the median
        own.good(loss)
    assert own.spike_limit() == pytest.approx(2.1)
    assert guard(spike_window=2).spike_limit() == math.inf
    with pytest.raises(RunStoppedError, match=r"far above .* safety\.max_spikes = 0"):
        guard(on_spike="skip", max_spikes=0).bad(3, "spike", "v/q")


def test_its_state_goes_on():
    own = guard(on_spike="skip", spike_window=4)
    for loss in (1.0, 2.0, 3.0, 4.0, 5.0):
        own.good(loss)
    own.bad(6, "loss", "v/q")
    own.bad(7, "spike", "v/q")
    other = guard(on_spike="skip", spike_window=4)
    other.load_state_dict(own.state_dict())
    assert other.state_dict() == own.state_dict()
    assert (other.bad_steps, other.spikes) == (1, 1)
    assert other.spike_limit() == pytest.approx(10.5)
