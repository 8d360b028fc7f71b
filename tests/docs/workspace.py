"""A folder in which the pages' commands find what they name: the demo, made small, and files."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from dataloaders.manifest import Video, read_manifest
from tests.conftest import ROOT
from tests.launcher.test_import_released import checkpoint, run_file

SHORT = {"optim.steps": 8, "optim.warmup_steps": 1, "checkpoint.every": 4, "scale.num_workers": 1}
CAUSAL = ("descriptive", "explanatory", "predictive", "counterfactual")


def environment(place: Path) -> dict[str, str]:
    """With this checkout's `gcg` first on the path."""
    path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def make_workspace(place: Path) -> None:
    """The demo of the Makefile with few clips, questions and steps, and what else pages name."""
    tools = place / "bin"
    tools.mkdir(parents=True)
    (tools / "gcg").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m launcher.cli "$@"\n')
    (tools / "gcg").chmod(0o755)
    for name in ("examples", "pyproject.toml", "constraints.txt"):
        (place / name).symlink_to(ROOT / name)
    (place / "storage").mkdir()
    (place / ".venv").mkdir()
    (place / ".venv" / ".installed").touch()  # nothing is to be installed
    demo = {
        "BIN": "bin",
        "DEMO_VIDEOS": 12, "DEMO_QUESTIONS": 4, "DEMO_SHARDS": 2,
        "DEMO_SETS": " ".join(f"--set {key}={value}" for key, value in SHORT.items()),
    }  # fmt: skip
    subprocess.run(
        ["make", "-f", ROOT / "Makefile", "demo", *(f"{k}={v}" for k, v in demo.items())],
        cwd=place, env=environment(place), check=True, timeout=500,
    )  # fmt: skip
    corpus = place / "runs" / "demo" / "corpus"
    videos = [*read_manifest(corpus / "train.jsonl")]
    _run_files(place)
    _own_clips(place, [corpus / video.path for video in videos])
    _next_gqa(place, corpus, [*read_manifest(corpus / "val.jsonl"), *videos[:3]])
    _other_benchmarks(place, corpus / videos[0].path)
    shutil.copytree(place / "runs" / "demo" / "grounding", place / "runs" / "NAME")
    config = yaml.safe_load((place / "runs" / "NAME" / "config.yaml").read_text())
    config["data"]["val"] = "data/nextgqa"
    (place / "runs" / "NAME" / "config.yaml").write_text(yaml.safe_dump(config))


def _run_files(place: Path) -> None:
    """`run.yaml` of each page, and a checkpoint for `gcg import-released`."""
    small: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "demo.yaml").read_text())
    for key, value in SHORT.items():
        section, name = key.split(".")
        small[section][name] = value
    large = yaml.safe_load((ROOT / "examples" / "larger_llm.yaml").read_text())
    for page in ("training", "observability"):
        small["run"]["name"] = page
        (place / f"{page}.yaml").write_text(yaml.safe_dump(small))
    for page in ("planning", "scaling", "clusters", "kubernetes"):
        large["scale"]["num_workers"] = 16
        (place / f"{page}.yaml").write_text(yaml.safe_dump(large))
    checkpoint(place / "best.pth")
    run_file(place).rename(place / "python.yaml")


def _own_clips(place: Path, clips: list[Path]) -> None:
    """The folder and the table of docs/start.md, and what docs/python.md asks about."""
    for folder in ("clips", "videos"):
        (place / folder).mkdir()
    for name, clip in zip(("bikes", "pancake"), clips, strict=False):
        shutil.copy(clip, place / "clips" / f"{name}.mp4")
        shutil.copy(clip, place / "videos" / f"{name}.mp4")
    shutil.copy(clips[0], place / "clip.mp4")
    page = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"```csv\n(.*?)```", page, re.DOTALL)
    (place / "questions.csv").write_text(table)
    asked = {"video": "videos/bikes.mp4", "question": "What?", "options": ["it blinks", "a dog"]}
    (place / "questions.jsonl").write_text(json.dumps(asked) + "\n")


def _next_gqa(place: Path, corpus: Path, videos: list[Video]) -> None:
    """Questions as NExT-QA and NExT-GQA publish them, and result files in their forms."""
    results, weights, spans, times = {}, {}, {}, {}
    rows: list[list[Any]] = []
    (place / "NExTVideo").mkdir()
    for video in videos:
        shutil.copy(corpus / video.path, place / "NExTVideo" / f"{video.id}.mp4")
        times[video.id] = list(range(8))
        spans[video.id] = {"duration": 8, "location": {}}
        for number, question in enumerate(video.questions):
            options, kind = question.options or [], ("CW", "TN", "DO")[number % 3]
            right = question.answer_index
            asked = [question.question, right, number, kind]
            rows.append([video.id, 0, 0, 0, *asked, *options])
            spans[video.id]["location"][str(number)] = question.spans
            results[f"{video.id}_{number}"] = {"prediction": number % 5, "answer": right}
            weights[f"{video.id}_{number}"] = [0.1, 0.2, 0.9, 0.8, 0.1, 0.1, 0.1, 0.1]
    for benchmark, first in (("nextqa", "video"), ("nextgqa", "video_id")):
        header = f"{first},frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
        (place / benchmark).mkdir()
        with (place / benchmark / "val.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header.split(","), *rows])
    _write(place / "nextgqa" / "gsub_val.json", spans)
    _write(place / "nextgqa" / "frame2time_val.json", times)
    _write(place / "results" / "HGA-bert-ft-h256-val.json", results)
    _write(place / "val-res.json", results)
    _write(place / "val_ground_att.json", weights)


def _other_benchmarks(place: Path, clip: Path) -> None:
    """A clip and its questions as Causal-VidQA and ActivityNet-QA publish them."""
    text: dict[str, Any] = {k: {"question": k, "answer": list("abcde")} for k in CAUSAL}
    right: dict[str, Any] = {k: {"answer": 1} for k in CAUSAL}
    for kind in CAUSAL[2:]:
        text[kind]["reason"], right[kind]["reason"] = list("vwxyz"), 2
    _write(place / "QA" / "k_7" / "text.json", text)
    _write(place / "QA" / "k_7" / "answer.json", right)
    (place / "split").mkdir()
    (place / "split" / "valid.pkl").write_bytes(pickle.dumps(["k_7"]))
    asked = {"video_name": "x-1", "question": "what is it", "question_id": "v_x-1_1"}
    _write(place / "dataset" / "val_q.json", [asked])
    _write(
        place / "dataset" / "val_a.json", [{"answer": "bag", "type": 5, "question_id": "v_x-1_1"}]
    )
    for folder, name in (("kinetics", "k_7.mp4"), ("ActivityNet", "v_x-1.mp4")):
        (place / folder).mkdir()
        shutil.copy(clip, place / folder / name)


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
