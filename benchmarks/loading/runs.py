"""Real training runs to measure: a small model at real sizes, clips, `gcg train`, its figures.

`python -m benchmarks.loading.runs RUN_FILE STEPS WARM` times the run's loader alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.loading.child import ROOT
from benchmarks.loading.clips import Recipe, make_clips
from benchmarks.loading.own import pack

COPIES = 24  # samples of a clip: enough for several shards
WARM = 3  # steps left out: they allocate, and find the prefetch full


@dataclass(frozen=True)
class Steps:
    """A run's steps after those of the warm-up, one entry each: seconds, of these waiting for data,
    of these for its own loader; and pairs. ``first_wait_s``: for the very first batch."""

    seconds: list[float]
    wait_s: list[float]
    loader_s: list[float]
    pairs: list[float]
    first_wait_s: float

    @property
    def pairs_per_s(self) -> float:
        return sum(self.pairs) / sum(self.seconds)

    @property
    def steps_per_s(self) -> float:
        return len(self.seconds) / sum(self.seconds)

    @property
    def wait_share(self) -> float:
        return sum(self.wait_s) / sum(self.seconds)


def make_model(work: Path) -> dict[str, Any]:
    """The ``model`` section of a model with random weights, kept if it is there: 32 frames of 224
    pixels, 257 tokens a frame, 32 queries a moment, all as the published one; layers and widths are
    small, and the trunk's share of the work of a pair is as there."""
    from benchmarks.random_model import keep_random
    from tests.gcg.weights.checkpoints import Sizes

    sizes = Sizes(
        vision_width=192, vision_layers=4, vision_heads=4, vision_ffn=768,
        image_size=224, patch_size=14, joint_width=128,
        text_width=64, text_layers=2, text_heads=2, vocabulary=2000,
        qformer_width=96, qformer_layers=4, qformer_heads=4, num_query_tokens=32,
        llm_width=256, llm_layers=3, llm_heads=4, llm_ffn=768,
    )  # fmt: skip
    instructblip, clip = keep_random(work / "model", sizes, "t5")
    return {
        "preset": "instructblip",
        "checkpoint": str(instructblip),
        "clip_checkpoint": str(clip),
        "num_frames": 32,
        "num_moments": 4,
    }


def make_data(work: Path, recipe: Recipe, model: dict[str, Any]) -> Path:
    """Packed and labelled copies of one clip, so that all visits cost the same."""
    from gcg.config import GCGConfig
    from launcher.labelling.label import label_data

    clips = make_clips([recipe], work / "clips")
    out = work / f"{clips[0].path.stem}-{model['preset']}"
    if not (out / "labels").exists():
        pack(clips, COPIES, out)
        label_data(out, GCGConfig.model_validate(model))
    return out


def run_tree(
    packed: Path, model: dict[str, Any], name: str, steps: int, **sections: dict[str, Any]
) -> dict[str, Any]:
    """The run file: one worker, one thread that computes and one that decodes."""
    tree: dict[str, dict[str, Any]] = {
        "run": {"name": name, "storage": str(packed.parent / "runs")},
        "data": {
            "train": str(packed), "streams": 2, "global_batch": 2, "contrast_group": 2,
            "decode_threads": 1,
        },
        "model": model,
        "optim": {"steps": steps},
        "engine": {"zero": 2, "precision": "fp32", "micro_batch": 2},
        "scale": {"num_workers": 1, "threads_per_worker": 1},
        "log": {"every": 1, "tensorboard": False, "prometheus": False},
    }  # fmt: skip
    for section, values in sections.items():
        tree[section] = {**tree.get(section, {}), **values}
    return tree


def train(tree: dict[str, Any], cores: set[int] | None = None) -> Steps:
    """What the run's own metrics say of its steps. Its folder is removed.

    Args:
        cores: the only ones that anything of the run may use; None: all.

    Raises:
        RuntimeError: the command failed; with its last lines.
    """
    from launcher.observe.runlog import read_metrics

    folder = Path(tree["run"]["storage"]) / tree["run"]["name"]
    shutil.rmtree(folder, ignore_errors=True)
    file = _write(tree)
    command = [sys.executable, "-m", "launcher.cli", "train", str(file)]
    if cores is not None:
        command = ["taskset", "-c", ",".join(map(str, sorted(cores))), *command]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"gcg train {file}: {done.returncode}: {done.stderr[-2000:]}")
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "train"]
    shutil.rmtree(folder)
    counted = rows[WARM:]
    return Steps(
        seconds=[row["step_s"] for row in counted],
        wait_s=[row["data_wait_s"] for row in counted],
        loader_s=[row["loader_wait_s"] for row in counted],
        pairs=[row["pairs_per_s"] * row["step_s"] for row in counted],
        first_wait_s=rows[0]["data_wait_s"],
    )


def loader_alone(tree: dict[str, Any]) -> float:
    """Steps a second of the run's loader in a process of its own that does nothing else.

    Raises:
        RuntimeError: the process failed; with its last lines.
    """
    return of_child("benchmarks.loading.runs", tree)["steps_per_s"]


def of_child(module: str, tree: dict[str, Any]) -> dict[str, Any]:
    """What ``python -m module RUN_FILE STEPS WARM`` prints, a JSON object.

    Raises:
        RuntimeError: the process failed; with its last lines.
    """
    file, steps = _write(tree), tree["optim"]["steps"]
    command = [sys.executable, "-m", module, str(file), str(steps), str(WARM)]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _write(tree: dict[str, Any]) -> Path:
    file = Path(tree["run"]["storage"]) / f"{tree['run']['name']}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return file


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def _time_loader(file: Path, steps: int, warm: int) -> float:
    import torch

    from gcg.build import build_model
    from launcher.config import load_run_config
    from launcher.training.build import build_parts
    from launcher.training.data import build_loader

    config = load_run_config(file)
    torch.set_num_threads(config.scale.threads_per_worker)
    parts = build_parts(config.model, build_model(config.model, config.run.seed))
    source, loader = build_loader(config, parts, 0, 1, file.with_suffix(".quarantine"))
    with source, loader:
        for _ in range(warm):
            next(loader)
        began = time.perf_counter()
        for _ in range(steps - warm):
            next(loader)
        return (steps - warm) / (time.perf_counter() - began)


if __name__ == "__main__":
    rate = _time_loader(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(json.dumps({"steps_per_s": rate}) + "\n")
