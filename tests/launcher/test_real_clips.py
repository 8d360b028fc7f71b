"""Real clips, sound and broken, and a real NExT-QA video through every stage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dataloaders.importers.nextqa import read_nextqa
from dataloaders.manifest import Question, Video, write_manifest
from launcher.cli import main
from tests.conftest import ROOT
from tests.launcher.conftest import run_tree

NEXTQA_VIDEO = "6037747123"
BROKEN = {
    "bad_bitflip.mp4",
    "bad_empty.mp4",
    "bad_trunc_faststart.mp4",
    "bad_trunc_frag.mp4",
    "bad_trunc_nomoov.mp4",
    "bad_zeros.mp4",
    "decord_corrupted.mp4",
    "derived_empty.mp4",
    "derived_garbage.mp4",
    "derived_nasa_audio_only.mp4",
}


def manifest_of(shared: Path, folder: Path) -> Path:
    """Every clip with two questions of our own, and the NExT-QA video with its real ones."""
    videos = folder / "nextqa"
    videos.mkdir()
    shutil.copy(shared / "videos" / "sevila_demo1.mp4", videos / f"{NEXTQA_VIDEO}.mp4")
    real, missing = read_nextqa(shared / "annotations" / "nextqa" / "val.csv", videos)
    assert [video.id for video in real] == [NEXTQA_VIDEO]
    assert len(missing) > 500
    rows = [real[0].model_copy(update={"path": str(videos / real[0].path)})]
    for path in sorted([*(shared / "videos").glob("*.*"), *(shared / "videos" / "odd").iterdir()]):
        if path.suffix != ".tsv" and path.stem != "sevila_demo1":
            rows.append(Video(id=path.name, path=str(path), questions=questions(path.stem)))
    write_manifest(folder / "clips.jsonl", rows)
    return folder / "clips.jsonl"


def questions(name: str) -> list[Question]:
    options = ["people", "a test pattern", "an animal"]
    return [
        Question(id="0", question="what is shown", answer="people", options=options,
                 answer_index=0, type="DO"),
        Question(id="1", question=f"how is {name} filmed", answer="with a camera"),
    ]  # fmt: skip


def test_pack_train_evaluate(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, data = manifest_of(shared, tmp_path), tmp_path / "data"
    assert main(["pack", str(manifest), str(data), "--min-shards", "8"]) == 0
    listed = [json.loads(line) for line in (data / "quarantine.jsonl").read_text().splitlines()]
    assert {entry["key"] for entry in listed} == BROKEN
    assert all(entry["reason"] for entry in listed)

    tree = run_tree(
        tmp_path,
        tmp_path / "runs",
        run={"name": "real"},
        data={"train": str(data), "val": str(data), "questions_per_visit": 8},
        optim={"steps": 20, "warmup_steps": 2},
        checkpoint={"every": 20},
        eval={"max_videos": 4},
        log={"every": 5},
    )
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(tree))
    assert main(["label", str(data), "--config", str(config)]) == 0
    # A process of its own: Ray warns of itself when it is imported, and warnings are errors here.
    command = [sys.executable, "-m", "launcher.train", "--config", str(config)]
    trained = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert trained.returncode == 0, trained.stderr
    run, out = tmp_path / "runs" / "real", tmp_path / "figures.json"
    written = ["--out", str(out), "--write-predictions", str(tmp_path / "answers")]
    capsys.readouterr()
    assert main(["eval", str(run), "--split", "val", "--json", *written]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())

    figures = json.loads(out.read_text())["grounding"]
    clips = len(manifest.read_text().splitlines()) - len(BROKEN)
    real, _ = read_nextqa(shared / "annotations" / "nextqa" / "val.csv", tmp_path / "nextqa")
    assert figures["num_videos"] == clips
    assert figures["num_questions"] == 2 * (clips - 1) + len(real[0].questions)
    assert figures["num_skipped"] == 0
    # The NExT-QA video's questions, scored by NExT-QA's rules, are as right as evaluation says.
    questions = ["--annotations", str(shared / "annotations" / "nextqa" / "val.csv")]
    given = tmp_path / "answers" / "grounding" / "predictions.json"
    capsys.readouterr()
    assert main(["score", "nextqa", *questions, "--predictions", str(given), "--json"]) == 0
    scored = json.loads(capsys.readouterr().out)
    assert scored["files"]["predictions"]["fit"] == len(real[0].questions)
    assert len(scored["files"]["predictions"]["unknown"]) == 2 * (clips - 1)
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in steps if entry["kind"] == "train"] == [5, 10, 15, 20]
