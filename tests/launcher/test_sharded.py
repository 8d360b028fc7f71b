"""Models built sharded: never whole on a rank, and yet the same weights and the same training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from gcg.build import build_model
from gcg.skeleton import CHUNK
from launcher.checkpoints.fence import begin_attempt
from launcher.checkpoints.keeper import CheckpointKeeper, Position
from launcher.config import RunConfig
from launcher.storage.run_folder import RunFolder
from launcher.training.engine import build_engine, import_deepspeed, model_dtype
from launcher.training.guard import Guard
from launcher.training.rng import seed_everything
from launcher.training.sharded import build_for_engine
from launcher.training.step import StepResult, TrainStep
from launcher.training.weights import load_trained_weights
from tests.spawn import run_ranks

from .big_models import Clips, instructblip, make_checkpoints, run_of

MIB = 2**20
# What a rank may need besides its share of the weights: a chunk on its way from the file (8 Mi
# values of 2 bytes), and as much again for the modules themselves and the allocator.
SLACK = 2 * CHUNK * 2


def peak_growth(make: Any) -> tuple[Any, int]:
    """What ``make`` returns, and by how many bytes its peak resident memory was above before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    made = make()
    return made, _status("VmHWM") - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def big(root: Path, world_size: int, **engine: Any) -> RunConfig:
    model = {"num_frames": 4, "num_moments": 3, "llm": {"name": str(root / "big")}}
    return run_of(model, root, world_size, **engine)


def models(root: Path, world_size: int) -> list[tuple[dict[str, Any], str]]:
    """Model settings with a precision each."""
    tiny = {"num_frames": 4, "num_moments": 3, "profile": "released", "llm": {"train": "lora"}}
    if world_size == 4:
        return [(tiny, "fp32"), (instructblip(root, "t5", llm={"train": "full"}), "bf16")]
    return [(instructblip(root, "llama", llm={"train": "lora"}), "bf16")]


def differences(root: Path) -> dict[str, list[str]]:
    """Parameters and buffers in which a sharded model, gathered, is not the whole one."""
    deepspeed = import_deepspeed(False)
    found = {}
    for number, (settings, precision) in enumerate(models(root, dist.get_world_size())):
        config = run_of(settings, root, dist.get_world_size(), precision=precision)
        sharded = build_for_engine(config)
        whole = build_model(config.model, config.run.seed, model_dtype(config))
        theirs = dict(whole.named_parameters())
        wrong = [*(sharded.state_dict().keys() ^ whole.state_dict().keys())]
        padded = 0
        for name, parameter in sharded.named_parameters():
            padded += theirs[name].numel() % dist.get_world_size() != 0
            shard: Any = parameter
            assert shard.ds_tensor.numel() == -(-theirs[name].numel() // dist.get_world_size())
            with deepspeed.zero.GatheredParameters([parameter]):
                same = torch.equal(parameter, theirs[name])
            if not same or parameter.requires_grad != theirs[name].requires_grad:
                wrong.append(name)
        buffers = dict(whole.named_buffers())
        wrong += [n for n, b in sharded.named_buffers() if not torch.equal(b, buffers[n])]
        assert padded
        found[f"{number} {config.model.preset} {precision}"] = wrong
    return found


@dataclass(frozen=True)
class AtFour:
    """What one of four ranks found: bytes of a big model as a whole, and the growth of its peak."""

    size: int
    growth: int
    differences: dict[str, list[str]]


def at_four_ranks(root: str) -> AtFour:
    config = big(Path(root), 4)
    import_deepspeed(False)
    # What is loaded once, whatever the model: libraries, tokenizers, the process group's buffers.
    build_for_engine(run_of({"num_frames": 4}, Path(root), 4))
    dist.barrier()
    model, growth = peak_growth(lambda: build_for_engine(config))
    size = sum(p.ds_numel for p in model.parameters()) * 2  # type: ignore[attr-defined]
    del model
    return AtFour(size, growth, differences(Path(root)))


class Attempt:
    """One attempt at a run of noise clips, on this rank. ``whole``: DeepSpeed does the slicing."""

    def __init__(self, config: RunConfig, *, whole: bool = False) -> None:
        self.config, self.rank = config, dist.get_rank()
        self.folder = RunFolder(config.folder)
        number = [begin_attempt(self.folder) if self.rank == 0 else 0]
        dist.broadcast_object_list(number, src=0)
        seed_everything(0)
        model: nn.Module
        if whole:
            model = build_model(config.model, config.run.seed, model_dtype(config))
        else:
            model = build_for_engine(config)
        self.engine = build_engine(model, config)
        self.step = TrainStep(self.engine, config, Guard(config.safety))
        self.keeper = CheckpointKeeper(
            self.engine, config, self.folder, attempt=number[0], data_fingerprint="noise"
        )

    def train(self, begin: int, end: int) -> list[StepResult]:
        world = dist.get_world_size()
        return [
            self.step([Clips(world * step + self.rank)], step, 4 * world)
            for step in range(begin, end)
        ]

    def masters(self) -> dict[str, torch.Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param

        found = {}
        for name, parameter in self.engine.module.named_parameters():
            if parameter.requires_grad:
                full = safe_get_full_fp32_param(parameter)
                assert full is not None
                found[name] = full.detach().clone()
        return found


@dataclass(frozen=True)
class AtTwo:
    """What one of two ranks found."""

    whole_size: int
    whole_growth: int
    differences: dict[str, list[str]]
    straight: list[StepResult]
    resumed: list[StepResult]
    same_masters: bool
    consolidated: set[str]
    handed_whole: list[StepResult]
    recomputed: list[StepResult]
    weights_offloaded: list[StepResult]
    stages: dict[int, list[StepResult]]


def at_two_ranks(root: str) -> AtTwo:
    import_deepspeed(False)
    first = run_of({"num_frames": 4}, Path(root), 2, zero=2)
    build_for_engine(first)
    model, growth = peak_growth(lambda: build_for_engine(big(Path(root), 2, zero=2)))
    size = sum(p.numel() for p in model.parameters()) * 2
    del model
    settings = instructblip(Path(root), "llama")

    def config(name: str, **engine: Any) -> RunConfig:
        return run_of(settings, Path(root) / name, 2, **engine)

    run = Attempt(config("resumed"))
    straight = run.train(0, 2)
    run.keeper.save(Position(2, {}))
    run.keeper.wait()
    straight += run.train(2, 4)
    masters = run.masters()
    run.engine.destroy()
    run = Attempt(config("resumed"))
    position = run.keeper.restore()
    assert position == Position(2, {})
    resumed = run.train(2, 4)
    same = run.masters()
    run.keeper.save(Position(4, {}))
    run.keeper.wait()
    run.engine.destroy()
    saved = load_trained_weights(run.folder.checkpoints / "step-00000004.attempt-2")

    run = Attempt(config("whole"), whole=True)
    handed_whole = run.train(0, 4)
    run.engine.destroy()
    run = Attempt(config("recomputed", recompute=["vision", "qformer", "llm"]))
    recomputed = run.train(0, 4)
    run.engine.destroy()
    run = Attempt(config("resumed", offload=["weights", "optimizer"]))
    assert run.keeper.roll_back() == Position(4, {})
    same_offloaded = run.masters()
    run.engine.destroy()
    run = Attempt(config("offloaded", offload=["weights"]))
    weights_offloaded = run.train(0, 4)
    run.engine.destroy()
    stages = {}
    for zero in (2, 3):
        run = Attempt(config(f"zero-{zero}", zero=zero, precision="fp32"))
        stages[zero] = run.train(0, 3)
        run.engine.destroy()
    return AtTwo(
        size,
        growth,
        differences(Path(root)),
        straight,
        resumed,
        all(
            masters.keys() == again.keys() and all(torch.equal(masters[n], again[n]) for n in again)
            for again in (same, same_offloaded)
        ),
        set(saved),
        handed_whole,
        recomputed,
        weights_offloaded,
        stages,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sharded")
    make_checkpoints(root)
    return root


@pytest.fixture(scope="module")
def two(root: Path) -> list[AtTwo]:
    return run_ranks(at_two_ranks, 2, str(root))


@pytest.fixture(scope="module")
def four(root: Path) -> list[AtFour]:
    return run_ranks(at_four_ranks, 4, str(root))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_rank_never_holds_more_than_its_share(four: list[AtFour]):
    for rank in four:
        assert rank.size > 270 * MIB
        assert rank.growth < rank.size / 4 + SLACK, rank.growth / MIB
        assert rank.growth > 0.9 * rank.size / 4  # it was really read


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_a_whole_model_is_never_there_twice(two: list[AtTwo]):
    for rank in two:
        assert 0.9 * rank.whole_size < rank.whole_growth < rank.whole_size + 2 * SLACK


def test_what_is_gathered_is_the_whole_model(two: list[AtTwo], four: list[AtFour]):
    for rank in (*two, *four):
        assert rank.differences
        assert not any(rank.differences.values()), rank.differences


def test_a_sharded_model_trains_as_one_that_was_whole(two: list[AtTwo]):
    for rank in two:
        # The same slices, whoever cut them: not a bit differs.
        assert rank.straight == rank.handed_whole == two[0].straight


def test_a_sharded_run_resumes_bit_for_bit(two: list[AtTwo]):
    for rank in two:
        assert rank.resumed == rank.straight[2:]
        assert rank.same_masters
        assert any(name.startswith("reader.qformer.") for name in rank.consolidated)
        frozen = ("vision.", "text.", "answerer.llm.")
        # Its buffers (rotary tables, position ids) are no weights; no frozen weight was saved.
        assert not [n for n in rank.consolidated if n.startswith(frozen) and "weight" in n]


def test_recomputed_activations_change_nothing_under_zero_3(two: list[AtTwo]):
    for rank in two:
        assert rank.recomputed == rank.straight


def test_offloaded_weights_change_nothing(two: list[AtTwo]):
    for rank in two:
        assert rank.weights_offloaded == rank.straight


def test_the_stages_train_alike(two: list[AtTwo]):
    for rank in two:
        losses = {zero: [r.loss for r in results] for zero, results in rank.stages.items()}
        # float32, sums in another order
        assert losses[2] == pytest.approx(losses[3], rel=1e-5)
