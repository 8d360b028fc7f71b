"""`gcg predict`: real clips, one and many, good and broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataloaders.container import probe
from launcher.cli import main
from launcher.evaluation.evaluate import evaluate_split
from launcher.export.run import open_run
from launcher.predict.show import clock
from tests.launcher.trained_runs import trained_run

QUESTION = "What does the red circle do?"
OPTIONS = ["it moves left", "it blinks", "it grows"]


@pytest.fixture(scope="module")
def place(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model, profile ``released``, which reads options before it looks."""
    root = tmp_path_factory.mktemp("predict")
    run = trained_run(packed, root / "runs", model={"profile": "released"}).folder
    assert main(["export", str(run), "--to", str(root / "model")]) == 0
    return root / "model"


def clips(packed: Path) -> list[Path]:
    return sorted((packed / "raw").rglob("*.mp4"))


def test_one_video(
    packed: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = clips(packed)[0]
    files = ["--clip", str(tmp_path / "cut.mp4"), "--strip", str(tmp_path / "strip.png")]
    command = ["predict", str(video), QUESTION, "--model", str(place), "--options", *OPTIONS]
    assert main([*command, *files]) == 0
    text = capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    info = probe(video.read_bytes())
    assert row["answer"] in OPTIONS
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-4)
    assert row["confidence"] == max(row["probabilities"])
    assert row["duration"] == pytest.approx(info.duration, abs=1e-3)
    assert len(row["weights"]) == len(row["times"]) == 8
    assert max(row["weights"]) == 1
    assert [each["time"] for each in row["moments"]] == [
        row["times"][each["frame"]] for each in row["moments"]
    ]
    start, end = row["span"]
    assert 0 <= start < end <= row["duration"] + 1e-3
    assert f"answer      {row['answer']}" in text
    assert f"moment      {clock(start)} to {clock(end)}" in text
    cut = probe((tmp_path / "cut.mp4").read_bytes())
    assert cut.duration == pytest.approx(end - start, abs=2 / info.fps)
    image = pytest.importorskip("PIL.Image", reason="strips are drawn by Pillow")
    strip = np.asarray(image.open(tmp_path / "strip.png"))
    assert strip.ndim == 3
    # Frames that were chosen are framed in their colour, which no other pixel has so often.
    assert (strip == (0xD5, 0x5E, 0x00)).all(axis=2).sum() > 200


def test_it_says_what_evaluation_says(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same clips and questions through `gcg eval`'s loader, from shards."""
    config = trained_run(packed, tmp_path / "runs")
    rows = evaluate_split(open_run(config.folder).trained_model(), config, "val")
    manifest = packed / "raw" / "val.jsonl"
    videos = [json.loads(line) for line in manifest.read_text().splitlines()]
    lines, wanted = [], []
    by_question = {row["question"]: row for row in rows}
    for video in videos:
        for question in video["questions"]:
            path = str(manifest.parent / (video.get("path") or video["url"]))
            lines.append({k: question[k] for k in ("question", "options")} | {"video": path})
            wanted.append(by_question[question["id"]])
    asked, out = tmp_path / "asked.jsonl", tmp_path / "out.jsonl"
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["predict", str(asked), "--model", str(config.folder), "--out", str(out)]
    assert main([*command, "--batch", "3"]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["row"] for row in found] == list(range(1, len(lines) + 1))
    for mine, row in zip(found, wanted, strict=True):
        assert mine["answer"] == row["predicted"]
        assert [each["frame"] for each in mine["moments"]] == row["selected"]
        np.testing.assert_allclose(mine["span"], row["span"], atol=2e-3)


def test_a_folder_with_broken_videos(
    packed: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    good = clips(packed)[:2]
    shutil.copy(good[0], folder / "a.mp4")
    shutil.copy(good[1], folder / "more" / "d.MP4")
    (folder / "b.mp4").write_bytes(b"no video at all")
    (folder / "c.mp4").write_bytes(good[0].read_bytes()[:3000])
    (folder / "notes.txt").write_text("not looked at")
    assert main(["predict", str(folder), QUESTION, "--model", str(place)]) == 1
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert {Path(r["video"]).name for r in rows if "error" in r} == {"b.mp4", "c.mp4"}
    right = {Path(r["video"]).name: r for r in rows if "error" not in r}
    assert set(right) == {"a.mp4", "d.MP4"}
    assert all(row["options"] is None and 0 < row["confidence"] <= 1 for row in right.values())
    assert all("\n" not in r["error"] for r in rows if "error" in r)
    assert "2 of 4 questions not answered" in said.err


def test_modes(packed: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", str(clips(packed)[0]), QUESTION, "--model", str(place), "--options"]
    command += [*OPTIONS, "--json", "--mode"]
    rows = {}
    for mode, more in (("grounding", []), ("uniform", []), ("oracle", ["--answer", OPTIONS[1]])):
        assert main([*command, mode, *more]) == 0
        rows[mode] = json.loads(capsys.readouterr().out)
    assert rows["uniform"]["span"] == [0.0, rows["uniform"]["duration"]]
    assert [each["frame"] for each in rows["uniform"]["moments"]] == [2, 6]
    assert len({str(row["weights"]) for row in rows.values()}) == 3
    assert main([*command, "oracle"]) == 2
    assert "give it with --answer" in capsys.readouterr().err
    assert main([*command, "oracle", "--answer", "?!"]) == 2
    assert "answer '?!': neither may be empty" in capsys.readouterr().err


def test_many_questions_about_few_videos_in_half_precision(
    packed: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than fit into a pass; rows of a video stay together, whatever their order."""
    videos = [str(path) for path in clips(packed)[:3]]
    lines = [
        {"video": videos[i % 3], "question": f"what is {i}", "id": f"q{i}", "options": OPTIONS}
        for i in range(40)
    ]
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["predict", str(asked), "--model", str(place)]
    assert main([*command, "--dtype", "bf16", "--batch", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(row["row"] for row in rows) == list(range(1, 41))
    assert [row["video"] for row in rows] == sorted(
        (row["video"] for row in rows), key=videos.index
    )
    assert all(row["id"] == f"q{row['row'] - 1}" for row in rows)
    assert main(command) == 0
    whole = {r["row"]: r for r in map(json.loads, capsys.readouterr().out.splitlines())}
    for row in rows:  # bfloat16 keeps 8 bits
        np.testing.assert_allclose(row["weights"], whole[row["row"]]["weights"], atol=0.1)


def test_lines_that_the_oracle_cannot_use_leave_nothing_behind(
    packed: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And other ends of line than a line's own are part of its texts."""
    line = {"video": str(clips(packed)[0]), "question": "what\u2028now", "options": OPTIONS}
    lines = [line | {"answer": OPTIONS[0]}, line]
    asked, out = tmp_path / "asked.jsonl", tmp_path / "out.jsonl"
    command = ["predict", str(asked), "--model", str(place), "--mode", "oracle", "--out", str(out)]
    for bad, rule in (
        (lines, "peeks at the right answer"),
        ([line | {"options": ["", "b"]}], ":1: opt"),
    ):
        asked.write_text("".join(json.dumps(x, ensure_ascii=False) + "\n" for x in bad), "utf-8")
        assert main(command) == 2
        assert rule in capsys.readouterr().err
        assert not out.exists()
    asked.write_text(json.dumps(lines[0], ensure_ascii=False) + "\n", "utf-8-sig")
    assert main(command) == 0
    (row,) = (json.loads(text) for text in out.read_text("utf-8").rstrip("\n").split("\n"))
    assert (row["row"], row["question"], row["mode"]) == (1, "what\u2028now", "oracle")


def test_what_cannot_be_asked_is_said_before_a_model_is_loaded(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, model = str(clips(packed)[0]), ["--model", str(tmp_path / "no-model")]
    lines = tmp_path / "lines.jsonl"
    lines.write_text('{"video": "a.mp4"}\n{\n{"video": "a", "question": "b", "options": ["c"]}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.jsonl").write_text("\n")
    (tmp_path / "there.jsonl").write_text("")
    cases: list[tuple[list[Any], str, int]] = [
        ([str(tmp_path / "no.mp4"), "q"], "no such file or folder", 1),
        ([video], "QUESTION: none given", 1),
        ([video, "q", "--options", "one"], "must be two texts or more", 1),
        ([str(lines)], "lines.jsonl:1: question: Field required", 3),
        ([str(lines), "q", "--answer", "a"], "stands in the lines of", 2),
        ([str(tmp_path / "none.jsonl")], "holds no questions", 1),
        ([str(tmp_path / "empty"), "q"], "no video below it", 1),
        ([str(tmp_path / "empty"), "q", "--strip", "x.png"], "--strip: is of one video", 1),
        ([video, "q", "--clip", str(tmp_path / "no" / "x.mp4")], "its folder is not there", 1),
        ([video, "q", "--out", str(tmp_path / "x.jsonl")], "is for several videos", 1),
        ([str(lines), "--out", str(tmp_path / "there.jsonl")], "is there already", 1),
        ([video, "q", "--batch", "0"], "must be at least 1", 1),
        ([video, "q", "--device", "cuda:77"], "--device cuda:77: cannot be used here", 1),
        ([video, "q"], "no-model: no such file or folder", 1),
    ]
    for arguments, rule, count in cases:
        assert main(["predict", *arguments, *model]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == count, said
        assert any(rule in line for line in said), said


def test_a_broken_video_alone_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.mp4").write_bytes(b"no video at all")
    assert main(["predict", str(tmp_path / "b.mp4"), "q", "--model", str(place)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "no demuxer opens" in line


def test_time_stamps() -> None:
    assert [clock(t) for t in (0, 9.96, 59.95, 62.54, 3599.99, 3602.5)] == [
        "0:00.0", "0:10.0", "1:00.0", "1:02.5", "1:00:00.0", "1:00:02.5",
    ]  # fmt: skip
