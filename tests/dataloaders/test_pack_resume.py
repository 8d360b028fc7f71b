"""A pack that was killed goes on after its last whole shard, and gives the same bytes."""

from __future__ import annotations

import importlib.util
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
from tests.dataloaders.shard_fixtures import FORMATS, clip_bytes, needs_mds, video, write_clips

NUM_CLIPS = 9
# A child for each case kills itself after so many clips, or in the middle of its writing: before a
# file that is whole gets its name, or before the journal is opened for the n-th time.
KILLED_AT = """
import json, os, signal, sys
from pathlib import Path
from tests.dataloaders.test_pack_resume import pack_rows, rows
from tests.dataloaders.shard_fixtures import clip_bytes

def child(place, format, what, number):
    met = 0

    def kill(done, total):
        if what == "clip" and done == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event, arguments):
        nonlocal met
        if (event == "os.rename" and os.fspath(arguments[1]).endswith("/" + what)
                or event == "open" and str(arguments[0]).endswith("/" + what)):
            met += 1
            if met == number:
                os.kill(os.getpid(), signal.SIGKILL)

    os.makedirs(place)
    os.chdir(place)
    sys.addaudithook(watch)
    pack_rows(Path(sys.argv[1]), "out", format=format, progress=kill)

cases = json.loads(sys.argv[2])
for number in range(len(rows())):
    clip_bytes(number)
if any(case[1] == "mds" for case in cases):
    from dataloaders import mds_library  # once, not in each child
for case in cases:
    pid = os.fork()
    if not pid:
        try:
            child(*case)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def rows() -> list[Video]:
    return [video(number, 1 + number % 2) for number in range(NUM_CLIPS)]


def pack_rows(root: Path, out: str | Path, **settings) -> PackReport:
    """Two clips in a shard; the fourth and the last clip are bad."""
    size = 2 * max(len(clip_bytes(number)) for number in range(NUM_CLIPS)) + 100
    return pack(rows(), out, root=root, shard_bytes=size, **settings)


def make_root(root: Path) -> Path:
    write_clips(root, rows())
    (root / rows()[3].path).write_bytes(b"")
    (root / rows()[-1].path).unlink()
    return root


@pytest.fixture
def root(tmp_path) -> Path:
    return make_root(tmp_path)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shards_of(out: Path) -> list[Path]:
    return sorted([*out.glob("shard-*.tar"), *out.glob("shard.*.mds")])


def whole(root: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> dict[str, bytes]:
    """The folder of a pack that nothing interrupts; its path, which is listed, is ``out`` too."""
    place = root / "whole"
    place.mkdir()
    monkeypatch.chdir(place)
    report = pack_rows(root, "out", format=format)
    assert (len(report.shards), len(report.bad), report.resumed) == (4, 2, 0)
    return content(place / "out")


KILLS = {
    "wds": [("clip", 6, 2), ("clip", NUM_CLIPS, 3), ("shard-000002.tar", 1, 2),
            ("shard-000002.index.jsonl", 1, 2), (JOURNAL_NAME, 5, 2), ("index.json", 1, 4)],
    "mds": [("clip", 6, 2), ("clip", NUM_CLIPS, 3), ("shard.00002.mds", 2, 2),
            ("shard.00002.index.jsonl", 1, 2), (JOURNAL_NAME, 5, 2), ("index.json", 2, 4),
            ("gcg.index.json", 1, 4)],
}  # fmt: skip


CASES = [
    pytest.param(format, *kill, marks=needs_mds if format == "mds" else ())
    for format, kills in KILLS.items()
    for kill in kills
]


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """Has the folder of each killed pack, and the clips."""
    root = make_root(tmp_path_factory.mktemp("killed"))
    formats = ["wds", "mds"] if importlib.util.find_spec("streaming") else ["wds"]
    cases = [
        (str(root / format / f"{what}-{number}"), format, what, number)
        for format in formats
        for what, number, _ in KILLS[format]
    ]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(root), json.dumps(cases)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(cases), done.stderr
    return root


@pytest.mark.parametrize(("format", "what", "number", "kept"), CASES)
def test_killed_and_gone_on_with_is_byte_equal(
    killed, tmp_path, monkeypatch, format, what, number, kept
):
    monkeypatch.chdir(tmp_path)
    assert pack_rows(killed, "out", format=format).resumed == 0
    expected = content(tmp_path / "out")
    place = killed / format / f"{what}-{number}"
    out = place / "out"
    with pytest.raises(DataError, match=r"not a complete packed data set|of another library"):
        read_index(out)
    monkeypatch.chdir(place)
    before = {path.name: path.stat().st_mtime_ns for path in shards_of(out)}
    steps: list[int] = []
    report = pack_rows(
        killed, "out", format=format, progress=lambda done, total: steps.append(done)
    )
    assert report.resumed == kept
    assert content(out) == expected
    for shard in report.shards[:kept]:
        assert (out / shard.name).stat().st_mtime_ns == before[shard.name]
    assert steps[-1] == NUM_CLIPS
    assert len(steps) < NUM_CLIPS
    assert pack_rows(killed, "out", format=format).reused


def test_what_is_left_when_only_the_journal_was_to_be_removed(root, monkeypatch):
    expected = whole(root, monkeypatch, "wds")
    (root / "whole" / "out" / JOURNAL_NAME).write_text("left\n")
    assert pack_rows(root, "out").reused
    assert content(root / "whole" / "out") == expected


def stop_at(number: int):
    def stop(done: int, total: int) -> None:
        if done == number:
            raise KeyboardInterrupt

    return stop


def interrupted(root: Path, monkeypatch: pytest.MonkeyPatch, format: str = "wds") -> Path:
    """Stopped when two of the four shards were whole."""
    place = root / "stopped"
    place.mkdir()
    monkeypatch.chdir(place)
    with pytest.raises(KeyboardInterrupt):
        pack_rows(root, "out", format=format, progress=stop_at(6))
    lines = (place / "out" / JOURNAL_NAME).read_text().splitlines()
    assert [json.loads(line).get("rows") for line in lines] == [None, 2, 5]
    return place / "out"


def damaged_shard(out: Path) -> None:
    path = shards_of(out)[1]
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)


def lost_sidecar(out: Path) -> None:
    sorted(out.glob("shard*.index.jsonl"))[1].unlink()


def half_line(out: Path) -> None:
    journal = out / JOURNAL_NAME
    journal.write_text(journal.read_text()[:-30])


def wrong_line(out: Path) -> None:
    journal = out / JOURNAL_NAME
    first, second, _ = journal.read_text().splitlines(keepends=True)
    journal.write_text(first + second + "[]\n")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("damage", [damaged_shard, lost_sidecar, half_line, wrong_line])
def test_what_is_not_as_it_was_written_is_packed_again(root, monkeypatch, damage, format):
    expected = whole(root, monkeypatch, format)
    out = interrupted(root, monkeypatch, format)
    damage(out)
    report = pack_rows(root, "out", format=format)
    assert report.resumed == 1
    assert content(out) == expected


@pytest.mark.parametrize("format", FORMATS)
def test_interrupted_twice(root, monkeypatch, format):
    expected = whole(root, monkeypatch, format)
    out = interrupted(root, monkeypatch, format)
    with pytest.raises(KeyboardInterrupt):
        pack_rows(root, "out", format=format, progress=stop_at(7))
    lost_sidecar(out)  # the journal still tells the rows of each shard apart
    with pytest.raises(KeyboardInterrupt):
        pack_rows(root, "out", format=format, progress=stop_at(2))
    assert pack_rows(root, "out", format=format).resumed == 1
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
