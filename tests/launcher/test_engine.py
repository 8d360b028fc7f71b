"""DeepSpeed on gloo: every ZeRO stage resumes bit for bit, and the loss ignores the layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from benchmarks.wire import counted
from ds_configs import load_profile
from launcher.checkpoints.fence import begin_attempt
from launcher.checkpoints.find import newest
from launcher.checkpoints.keeper import CheckpointKeeper, Position
from launcher.errors import CheckpointError
from launcher.storage.run_folder import RunFolder
from launcher.training.engine import build_engine, engine_profile
from launcher.training.guard import Guard
from launcher.training.optimizer import learning_rate_share, parameter_groups
from launcher.training.rng import seed_everything
from launcher.training.step import StepResult, TrainStep
from launcher.training.weights import load_trained_weights, write_final
from tests.spawn import run_ranks

from .toy import ToyModel, toy_config, toy_micro_batches, toy_num_pairs

CASES = [(zero, precision) for zero in (1, 2, 3) for precision in ("bf16", "fp32")]


class Attempt:
    """One attempt at the toy run, on this rank."""

    def __init__(self, storage: Path, model: ToyModel | None = None, **changes: Any) -> None:
        self.config = toy_config(storage, **changes)
        self.folder = RunFolder(self.config.folder)
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        number = [begin_attempt(self.folder) if self.rank == 0 else 0]
        dist.broadcast_object_list(number, src=0)
        seed_everything(self.rank)
        self.engine = build_engine(model or ToyModel(), self.config)
        self.guard = Guard(self.config.safety)
        self.step = TrainStep(self.engine, self.config, self.guard)
        self.keeper = CheckpointKeeper(
            self.engine, self.config, self.folder, attempt=number[0], data_fingerprint="toy"
        )

    def train(self, begin: int, end: int) -> list[StepResult]:
        batch, micro = self.config.data.global_batch, self.config.engine.micro_batch
        return [
            self.step(
                toy_micro_batches(step, self.rank, self.world_size, batch, micro),
                step,
                toy_num_pairs(step, batch),
            )
            for step in range(begin, end)
        ]

    def save(self, step: int) -> None:
        self.keeper.save(Position(step, {"epoch": 0, "step": step}))
        self.keeper.wait()

    def masters(self) -> dict[str, torch.Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param

        found = {}
        for name, parameter in self.engine.module.named_parameters():
            if parameter.requires_grad:
                full = safe_get_full_fp32_param(parameter)
                assert full is not None
                found[name] = full.detach().clone().view(getattr(parameter, "ds_shape", full.shape))
        return found


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def save_and_resume(root: str) -> dict[str, Any]:
    """For every case: an uninterrupted run, and one that begins again in the middle."""
    found: dict[str, Any] = {}
    for zero, precision in CASES:
        storage = Path(root) / f"{zero}-{precision}"
        changes = {"engine__zero": zero, "engine__precision": precision}
        whole = Attempt(storage, **changes)
        assert whole.keeper.restore() is None
        results = whole.train(0, 4)
        whole.save(4)
        results += whole.train(4, 8)
        final = whole.masters()
        whole.engine.destroy()

        resumed = Attempt(storage, **changes)
        position = resumed.keeper.restore()
        assert position is not None
        again = resumed.train(position.step, 8)
        resumed.save(8)
        consolidated = load_trained_weights(resumed.folder.checkpoints / "step-00000008.attempt-2")
        found[f"{zero}-{precision}"] = {
            "results": results,
            "position": position,
            "same results": results[4:] == again,
            "same masters": same(final, resumed.masters()),
            "same consolidated": same(final, {n: consolidated[n] for n in final}),
            "frozen left out": "encoder.weight" not in consolidated,
        }
        resumed.engine.destroy()
    return found


def train_layouts(root: str) -> dict[int, list[float]]:
    """The same global batches in micro-batches of different sizes; no dropout."""
    found = {}
    for micro in (1, 2, 4):
        attempt = Attempt(
            Path(root) / f"micro-{micro}", engine__micro_batch=micro, engine__precision="fp32"
        )
        attempt.engine.module.dropout.p = 0.0
        found[micro] = [result.loss for result in attempt.train(0, 5)]
        attempt.engine.destroy()
    return found


def plain_torch(storage: Path) -> list[float]:
    """What the run means: the mean loss over all pairs of a global batch, clipped, AdamW."""
    config = toy_config(storage, engine__precision="fp32")
    model = ToyModel()
    model.dropout.p = 0.0
    groups = parameter_groups(model, config.optim)
    optimizer = torch.optim.AdamW(groups, betas=config.optim.betas)
    weights = config.model.loss
    losses = []
    for step in range(5):
        (batch,) = toy_micro_batches(step, 0, 1, 8, 8)
        output = model(**batch.model_inputs())
        loss = output.loss_vqa + weights.alpha_reg * output.loss_reg
        loss = (loss + weights.alpha_con * output.loss_con).mean()
        loss.backward()
        learning = [p for group in groups for p in group["params"]]
        torch.nn.utils.clip_grad_norm_(learning, config.optim.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate_share(step, config.optim)
        for parameter in learning:  # ZeRO decays a part that got no gradient, too
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def refuse(root: str) -> list[str]:
    """What a checkpoint says to a run that it does not fit."""
    storage = Path(root)
    first = Attempt(storage)
    first.train(0, 1)
    first.save(1)
    saved = newest(first.folder)
    assert saved is not None
    if first.rank == 0:
        write_final(first.folder, first.config, saved)
    said = []
    other = Attempt(storage, optim__clip_norm=0.5)
    try:
        other.keeper.restore()
    except CheckpointError as error:
        said += error.lines
    return said


def gather_small(root: str) -> dict[str, Any]:
    """A step under ZeRO-3 of a model whose weights are all small: what is sent, what is whole."""
    with counted() as collectives:
        attempt = Attempt(Path(root), engine__zero=3, engine__precision="fp32")
        attempt.train(0, 1)
        collectives.clear()
        attempt.train(1, 2)
    whole = {
        name: parameter.detach().clone()
        for name, parameter in attempt.engine.module.named_parameters()
        if parameter.requires_grad
    }
    found = {"gathers": collectives.calls["all-gather"], "new": same(whole, attempt.masters())}
    attempt.engine.destroy()
    return found


@dataclass(frozen=True)
class Outcome:
    """What one rank found."""

    small: dict[str, Any]
    resumed: dict[str, Any]
    layouts: dict[int, list[float]]
    refusals: list[str]


def everything(root: str) -> Outcome:
    # One spawn for all: starting processes that import DeepSpeed takes longer than the rest.
    return Outcome(
        gather_small(f"{root}/small"),  # first: it counts from DeepSpeed's import on
        save_and_resume(f"{root}/resume"),
        train_layouts(f"{root}/layout"),
        refuse(f"{root}/refuse"),
    )


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="module")
def outcomes(storage: Path) -> list[Outcome]:
    return run_ranks(everything, 2, str(storage))


def test_every_stage_resumes_bit_for_bit(outcomes: list[Outcome]):
    by_rank = [outcome.resumed for outcome in outcomes]
    assert by_rank[0].keys() == {f"{zero}-{precision}" for zero, precision in CASES}
    for ranks in zip(*(found.values() for found in by_rank), strict=True):
        for found in ranks:
            assert found["position"] == Position(4, {"epoch": 0, "step": 4})
            assert found["same results"]
            assert found["same masters"]
            assert found["same consolidated"]
            assert found["frozen left out"]
        assert ranks[0]["results"] == ranks[1]["results"]
    losses = {name: [r.loss for r in f["results"]] for name, f in by_rank[0].items()}
    assert losses["2-fp32"][-1] < losses["2-fp32"][0]
    # In float32 the stages differ in the order of sums alone.
    for zero in (1, 3):
        assert losses[f"{zero}-fp32"] == pytest.approx(losses["2-fp32"], rel=1e-5)


def test_small_weights_are_gathered_at_once_after_each_update(outcomes: list[Outcome]):
    for outcome in outcomes:
        assert outcome.small == {"gathers": 1, "new": True}


def test_the_loss_is_the_mean_over_pairs_whatever_the_layout(
    outcomes: list[Outcome], tmp_path: Path
):
    expected = plain_torch(tmp_path)
    assert outcomes[0].layouts == outcomes[1].layouts
    for losses in outcomes[0].layouts.values():
        # float32 sums in another order, through five AdamW updates
        assert losses == pytest.approx(expected, rel=1e-4)


def test_refusals_are_told_on_every_rank(outcomes: list[Outcome], storage: Path):
    first, second = (outcome.refusals for outcome in outcomes)
    assert first == second
    assert "was written by a run with other settings" in first[0]
    final = load_trained_weights(storage / "refuse" / "toy" / "final")
    assert final.keys() >= {"head.weight"}


def test_profiles_are_filled_in(tmp_path: Path):
    for zero in (1, 2, 3):
        assert load_profile(zero)["zero_optimization"]["stage"] == zero
        profile = engine_profile(toy_config(tmp_path, engine__zero=zero))
        assert "auto" not in str(profile)
        assert profile["train_batch_size"] == 8
        assert profile["gradient_accumulation_steps"] == 2
    with pytest.raises(ValueError, match=r"engine\.zero = 4"):
        load_profile(4)
