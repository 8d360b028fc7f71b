"""A pack that was killed goes on after its last whole shard, and gives the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dataloaders.errors import DataError
from dataloaders.index import read_index
from dataloaders.journal import JOURNAL_NAME, Journal
from dataloaders.manifest import Video
from dataloaders.shards import PackReport, pack
from tests.dataloaders.shard_fixtures import clip_bytes, video, write_clips

NUM_CLIPS = 9
KILLED_AT = """
import os, signal, sys
from pathlib import Path
from tests.dataloaders.test_pack_resume import pack_rows

def kill(done, total):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

pack_rows(Path(sys.argv[1]), "out", progress=kill)
"""


def rows() -> list[Video]:
    return [video(number, 1 + number % 2) for number in range(NUM_CLIPS)]


def pack_rows(root: Path, out: str | Path, **settings) -> PackReport:
    """Two clips in a shard; the fourth and the last clip are bad."""
    size = 2 * max(len(clip_bytes(number)) for number in range(NUM_CLIPS)) + 100
    return pack(rows(), out, root=root, shard_bytes=size, **settings)


@pytest.fixture
def root(tmp_path) -> Path:
    write_clips(tmp_path, rows())
    (tmp_path / rows()[3].path).write_bytes(b"")
    (tmp_path / rows()[-1].path).unlink()
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The folder of a pack that nothing interrupts; its path, which is listed, is ``out`` too."""
    place = root / "whole"
    place.mkdir()
    monkeypatch.chdir(place)
    report = pack_rows(root, "out")
    assert (len(report.shards), len(report.bad), report.resumed) == (4, 2, 0)
    return content(place / "out")


@pytest.mark.parametrize(("killed_at", "kept"), [(6, 2), (NUM_CLIPS, 3)])
def test_killed_and_gone_on_with_is_byte_equal(root, monkeypatch, killed_at, kept):
    expected = whole(root, monkeypatch)
    place = root / "killed"
    place.mkdir()
    project = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(root), str(killed_at)],
        cwd=place, env={**os.environ, "PYTHONPATH": project}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (place / "out" / "index.json").exists()
    monkeypatch.chdir(place)
    before = {path.name: path.stat().st_mtime_ns for path in (place / "out").glob("shard-*.tar")}
    steps: list[int] = []
    report = pack_rows(root, "out", progress=lambda done, total: steps.append(done))
    assert report.resumed == kept
    assert content(place / "out") == expected
    for shard in report.shards[:kept]:
        assert (place / "out" / shard.name).stat().st_mtime_ns == before[shard.name]
    assert steps[-1] == NUM_CLIPS
    assert len(steps) < NUM_CLIPS
    assert pack_rows(root, "out").reused


def stop_at(number: int):
    def stop(done: int, total: int) -> None:
        if done == number:
            raise KeyboardInterrupt

    return stop


def interrupted(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stopped when two of the four shards were whole."""
    place = root / "stopped"
    place.mkdir()
    monkeypatch.chdir(place)
    with pytest.raises(KeyboardInterrupt):
        pack_rows(root, "out", progress=stop_at(6))
    lines = (place / "out" / JOURNAL_NAME).read_text().splitlines()
    assert [json.loads(line).get("rows") for line in lines] == [None, 2, 5]
    return place / "out"


def damaged_tar(out: Path) -> None:
    tar = out / "shard-000001.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)


def lost_sidecar(out: Path) -> None:
    (out / "shard-000001.index.jsonl").unlink()


def half_line(out: Path) -> None:
    journal = out / JOURNAL_NAME
    journal.write_text(journal.read_text()[:-30])


def wrong_line(out: Path) -> None:
    journal = out / JOURNAL_NAME
    first, second, _ = journal.read_text().splitlines(keepends=True)
    journal.write_text(first + second + "[]\n")


@pytest.mark.parametrize("damage", [damaged_tar, lost_sidecar, half_line, wrong_line])
def test_what_is_not_as_it_was_written_is_packed_again(root, monkeypatch, damage):
    expected = whole(root, monkeypatch)
    out = interrupted(root, monkeypatch)
    damage(out)
    report = pack_rows(root, "out")
    assert report.resumed == 1
    assert content(out) == expected


def test_interrupted_twice(root, monkeypatch):
    expected = whole(root, monkeypatch)
    out = interrupted(root, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pack_rows(root, "out", progress=stop_at(7))
    lost_sidecar(out)  # the journal still tells the rows of each shard apart
    with pytest.raises(KeyboardInterrupt):
        pack_rows(root, "out", progress=stop_at(2))
    assert pack_rows(root, "out").resumed == 1
    assert content(out) == expected


def test_a_journal_of_another_input_is_not_used(root, monkeypatch):
    out = interrupted(root, monkeypatch)
    (root / rows()[0].path).write_bytes(clip_bytes(8))
    report = pack_rows(root, "out")
    assert report.resumed == 0
    assert read_index(out).shards == report.shards
    assert not (out / JOURNAL_NAME).exists()


def test_an_empty_journal_keeps_nothing(tmp_path):
    assert Journal(tmp_path, "x").read().shards == []
    (tmp_path / JOURNAL_NAME).write_text("nonsense\n")
    assert Journal(tmp_path, "x").read().shards == []


def test_transcoded_shards_are_kept_as_well(root, monkeypatch):
    from dataloaders.transcode import TranscodeSettings

    settings = TranscodeSettings(short_side=16, gop=4)

    def run(out: str, **more) -> PackReport:
        return pack(rows(), out, root=root, min_shards=4, transcode=settings, **more)

    monkeypatch.chdir(root)
    expected = run("whole").shards
    with pytest.raises(KeyboardInterrupt):
        run("out", progress=stop_at(6))
    report = run("out")
    assert report.resumed == 2
    assert report.shards == expected
    with pytest.raises(DataError, match="other settings"):
        pack(rows(), "out", root=root, min_shards=4)
