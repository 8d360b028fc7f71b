"""A soak: one run of the tiny preset on encoded clips, through Ray, under many random faults.

It ends bit for bit as the run that nothing disturbed and that had as many workers at every step:
every question of every epoch seen exactly once, the same answers on the test split. A run of two
workers throughout ends elsewhere, disturbed or not: sums in another order, and a loss that chooses
frames by their order (docs/reliability.md). ``GCG_SOAK_SEED`` and ``GCG_SOAK_FAULTS`` draw others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dataloaders.manifest import read_manifest
from dataloaders.moments.corpus import make_corpus
from dataloaders.shards import pack
from gcg.config import GCGConfig
from launcher.checks.preflight import claim
from launcher.config import RunConfig, dump, parse_run_config
from launcher.labelling.label import label_data
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from launcher.training.weights import load_trained_weights
from tests.conftest import ROOT
from tests.launcher.accounts import check_account
from tests.launcher.conftest import MODEL, run_tree

from .ray_nodes import ray_environment, ray_nodes
from .refusing import can_refuse
from .same_workers import legs_of, run_legs
from .soak import Soak
from .soak_draw import KINDS, draw
from .soak_outcome import HEADER, Outcome

SEED = int(os.environ.get("GCG_SOAK_SEED", "0"))
NUM_FAULTS = int(os.environ.get("GCG_SOAK_FAULTS", "22"))
EVERY = 4
# Room for a run that goes on while a fault is prepared: it must not end before the last of them.
SPARE = 40


def test_the_draw_is_the_seeds_alone():
    faults = draw(SEED, 22)
    assert faults == draw(SEED, 22) != draw(SEED + 1, 22)
    assert {fault.kind for fault in faults} == set(KINDS)
    steps = [fault.step for fault in faults]
    assert steps == sorted(set(steps))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of one video each, so that the plan's streams are equally long: no remainder."""
    root = tmp_path_factory.mktemp("soak")
    manifests = make_corpus(root / "raw", num_videos=40, questions_per_video=12)
    for split in ("train", "test"):
        rows = list(read_manifest(manifests[split]))
        pack(rows, root / split, root=manifests[split].parent, shard_bytes=1)
    label_data(root / "train", GCGConfig(**MODEL))
    return root


def make(clips: Path, storage: Path, name: str, steps: int, num_workers: Any) -> RunConfig:
    return parse_run_config(
        run_tree(
            clips,
            storage,
            run={"name": name},
            data={"val": None, "test": str(clips / "test"), "questions_per_visit": 6},
            optim={"steps": steps, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 2},
            engine={"precision": "fp32", "micro_batch": 1},
            scale={"num_workers": num_workers, "settle_s": 5, "max_failures": 2 * NUM_FAULTS},
            checkpoint={"every": EVERY, "keep": 3},
            safety={"hang_timeout_s": 30},
            log={"questions": True},
        )
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_random_faults(clips: Path, tmp_path: Path):
    if not can_refuse():
        pytest.skip("a superuser who may not mount: no storage can be made to refuse")
    faults = draw(SEED, NUM_FAULTS)
    steps = faults[-1].step + SPARE
    config = make(clips, tmp_path, "soak", steps, [1, 2])
    path, folder = tmp_path / "run.yaml", RunFolder(config.folder)
    path.write_text(dump(config))
    print(f"\nseed {SEED}, {NUM_FAULTS} faults, {steps} steps\n{HEADER}")  # noqa: T201
    began = time.time()
    with ray_nodes(ray_environment()) as nodes:
        soak = Soak(nodes, path, folder, tmp_path / "said.txt")
        try:
            for fault in faults:
                soak.harm(fault)
            soak.finish()
        finally:
            soak.close()
    print(f"{len(faults)} faults in {time.time() - began:.0f} s")  # noqa: T201
    for outcome in soak.outcomes:
        check_outcome(outcome)
    legs = legs_of(folder)
    print("undisturbed:", ", ".join(f"{leg.world} to step {leg.last}" for leg in legs))  # noqa: T201
    undisturbed = make(clips, tmp_path, "undisturbed", steps, [1, 2])
    claim(undisturbed)
    run_legs(undisturbed, legs)
    check_the_same(config, undisturbed, clips, tmp_path)


def check_outcome(outcome: Outcome) -> None:
    """No more is lost than what came after the last checkpoint, which is at most EVERY steps ago
    and a step or two that are made while it is written, and as much again if that was damaged."""
    kind = outcome.fault.kind
    if "asked" in kind or "drained" in kind or "refuses" in kind:
        assert outcome.lost == 0, outcome
    else:
        assert outcome.lost <= EVERY * (2 if "damaged" in kind else 1) + 2, outcome


def check_the_same(config: RunConfig, undisturbed: RunConfig, clips: Path, place: Path) -> None:
    one, other = RunFolder(config.folder), RunFolder(undisturbed.folder)
    for each in (one, other):
        rows = [row for row in read_metrics(each.metrics) if row["kind"] == "train"]
        assert [row["step"] for row in rows] == list(range(1, config.optim.steps + 1))
    manifest = clips / "raw" / "train.jsonl"
    seen = check_account(config, manifest)
    assert seen == check_account(undisturbed, manifest)
    asked = [counts.total() for counts in seen.values()]
    assert set(asked[:-1]) == {sum(len(video.questions) for video in read_manifest(manifest))}
    figures = evaluate([one, other], place / "figures.json")
    found, expected = figures["soak"], figures["undisturbed"]
    print(  # noqa: T201
        f"{len(asked) - 1} epochs and a part of one, {sum(asked)} questions, each once an epoch; "
        f"accuracy {found['accuracy']:.3f}, undisturbed {expected['accuracy']:.3f}, interval "
        f"{expected['interval']}, {expected['num_questions']} questions"
    )
    weights, again = load_trained_weights(one.final), load_trained_weights(other.final)
    assert weights.keys() == again.keys()
    assert not [name for name in weights if not torch.equal(weights[name], again[name])]
    low, high = expected["interval"]
    assert low <= found["accuracy"] <= high


def evaluate(folders: list[RunFolder], out: Path) -> dict[str, Any]:
    """What ``gcg eval`` finds on the test split."""
    runs = [str(folder.root) for folder in folders]
    done = subprocess.run(
        [sys.executable, "-m", "launcher.cli", "eval", *runs, "--split", "test", "--out", str(out)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())
