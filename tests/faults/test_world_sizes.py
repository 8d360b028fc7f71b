"""A checkpoint goes on at any world size and ZeRO stage: the same state, then the same run.

A case is a chain of attempts, each at another world size or stage than the one before. What is
restored is compared bit for bit with what was saved: weights, moments, groups, counts, buffers.
What comes of it is compared with a run that was never interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from launcher.checkpoints.find import complete_checkpoints, newest
from launcher.checkpoints.universal import caches
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.weights import load_trained_weights
from tests.spawn import run_ranks

from .toy_runs import Contents, ToyAttempt, distance

EVERY = 3  # updates an attempt
# In fp32 only the order of sums differs between layouts; 12 updates of AdamW amplify it.
LIMIT = {"fp32": 1e-5, "bf16": 2e-2}


@dataclass(frozen=True)
class Leg:
    """One attempt: ranks, ZeRO stage, and what is offloaded."""

    world_size: int
    zero: int
    offload: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.world_size}x{self.zero}" + "".join(part[0] for part in self.offload)


@dataclass(frozen=True)
class Chain:
    legs: tuple[Leg, ...]
    precision: str = "fp32"

    @property
    def name(self) -> str:
        return "-".join([*(leg.name for leg in self.legs), self.precision])


def chain(text: str, precision: str = "fp32") -> Chain:
    """``2x3 1x2o 2x3ow``: two ranks with ZeRO-3, one with ZeRO-2 and an offloaded optimizer, two
    with ZeRO-3 and weights offloaded as well."""
    parts = {"o": "optimizer", "w": "weights"}
    legs = [
        Leg(int(leg[0]), int(leg[2]), tuple(parts[letter] for letter in leg[3:]))
        for leg in text.split()
    ]
    return Chain(tuple(legs), precision)


QUICK = [chain("2x2 1x3o 2x2o 2x2")]
SLOW = [
    chain("2x2 1x3 4x2 2x3"),
    chain("2x1 1x1 4x1 2x1"),
    chain("2x2 1x2 4x2 2x2"),
    chain("2x3 1x3 4x3 2x3"),
    chain("2x2 1x3 4x2 2x3", "bf16"),
    chain("2x2 2x3 2x2 2x1"),
    chain("2x3 2x1 2x3 2x2"),
    chain("2x2o 1x3o 4x1o 2x3o"),
    chain("2x3ow 1x2o 4x3ow 2x1o", "bf16"),
    chain("2x1 2x1o 2x1 2x1o", "bf16"),
    chain("2x2o 2x2 2x2o 2x2", "bf16"),
    chain("2x3 2x3ow 2x3w 2x3o", "bf16"),
]


@dataclass
class Outcome:
    """Of one leg, on rank 0."""

    restored: Contents | None
    done: Contents
    losses: list[float]


def whole(root: str, precisions: list[str], lengths: list[int]) -> dict[str, Contents]:
    """Runs that nothing interrupts, two ranks, ZeRO-2."""
    found = {}
    for precision in precisions:
        attempt = ToyAttempt(Path(root) / f"whole-{precision}", 2, 2, precision)
        assert attempt.keeper.restore() is None
        for leg in range(max(lengths)):
            attempt.train(leg * EVERY, (leg + 1) * EVERY)
            if leg + 1 in lengths:
                found[f"{precision}-{leg + 1}"] = attempt.contents()
        attempt.engine.destroy()
    return found


def run_leg(root: str, chains: list[Chain], number: int) -> dict[str, Outcome]:
    """The leg of that number of every chain, in order."""
    found = {}
    for each in chains:
        leg = each.legs[number]
        attempt = ToyAttempt(
            Path(root) / each.name, leg.world_size, leg.zero, each.precision, leg.offload
        )
        position = attempt.keeper.restore()
        begin = number * EVERY
        assert (0 if position is None else position.step) == begin
        restored = None if position is None else attempt.contents()
        losses = attempt.train(begin, begin + EVERY)
        attempt.save(begin + EVERY)
        found[each.name] = Outcome(restored, attempt.contents(), losses)
        attempt.engine.destroy()
    return found


def run_chains(root: Path, chains: list[Chain]) -> dict[str, list[Outcome]]:
    outcomes: dict[str, list[Outcome]] = {each.name: [] for each in chains}
    for number in range(max(len(each.legs) for each in chains)):
        by_world: dict[int, list[Chain]] = {}
        for each in chains:
            by_world.setdefault(each.legs[number].world_size, []).append(each)
        for world, some in by_world.items():
            ranks = run_ranks(run_leg, world, str(root), some, number, preloaded=True)
            for name, outcome in ranks[0].items():
                outcomes[name].append(outcome)
                assert all(rank[name].done == outcome.done for rank in ranks)
    return outcomes


def check(root: Path, chains: list[Chain]) -> None:
    precisions = sorted({each.precision for each in chains})
    lengths = sorted({len(each.legs) for each in chains})
    uninterrupted = run_ranks(whole, 2, str(root), precisions, lengths, preloaded=True)[0]
    for name, legs in run_chains(root, chains).items():
        for before, after in pairwise(legs):
            assert after.restored is not None
            assert after.restored.different(before.done) == [], name
        precision = name.rpartition("-")[2]
        gap = distance(legs[-1].done.tensors, uninterrupted[f"{precision}-{len(legs)}"].tensors)
        print(f"{name}: relative difference of the final weights {gap:.2e}")  # noqa: T201
        assert gap < LIMIT[precision], name
        folder = RunFolder(root / name / "toy")
        assert [c.step for c in complete_checkpoints(folder)] == [
            EVERY * (n + 1) for n in range(len(legs))
        ]
        last = newest(folder)
        assert last is not None
        weights = load_trained_weights(last.path)  # from shards of tiny groups, too
        for weight, values in legs[-1].done.tensors.items():
            if ":" not in weight:
                assert weights[weight].view(-1).equal(values), (name, weight)


def test_another_world_size_and_stage(tmp_path: Path):
    check(tmp_path, QUICK)
    folder = RunFolder(tmp_path / QUICK[0].name / "toy")
    # Each was converted once and kept beside its checkpoint.
    assert [path.name for path in caches(folder)] == [
        "step-00000003.attempt-1.universal-2",
        "step-00000006.attempt-2.universal-3",
    ]
    said = [row["text"] for row in read_metrics(folder.metrics) if row["kind"] == "convert"]
    assert said[0].startswith("converting step-00000003.attempt-1 from 2 workers, ZeRO-2, to 1, ")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_stage_at_other_world_sizes_and_every_change_of_stage(tmp_path: Path):
    check(tmp_path, SLOW)
