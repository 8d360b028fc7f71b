"""Every kind of damage, where it is met, and what becomes of it. ``docs/data.md`` has the table."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest

from dataloaders.bad_questions import BadQuestions
from dataloaders.errors import DataError
from dataloaders.fetch import HostDecoder
from dataloaders.index import (
    INDEX_NAME,
    DatasetIndex,
    Member,
    read_entries,
    read_index,
    write_entries,
    write_index,
)
from dataloaders.ingest import Clip
from dataloaders.left_out import QUARANTINE_NAME
from dataloaders.loader import Loader
from dataloaders.manifest import Video, read_manifest, write_manifest
from dataloaders.plan import Plan
from dataloaders.quarantine import Quarantine
from dataloaders.shard_source import ShardSource
from dataloaders.shard_writer import TarShardWriter
from dataloaders.shards import pack
from launcher.cli import main
from tests.dataloaders.clips import endless_clip
from tests.dataloaders.loader_fixtures import FRAMES, SIZE, asked, budget, take
from tests.dataloaders.shard_fixtures import clip_bytes, collator, pack_clips, video, write_clips
from tests.dataloaders.test_time_limit import StuckDecoder

NUM_CLIPS = 8  # two in each of four shards


# Clips ------------------------------------------------------------------------------------------


def audio_only() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        track = out.add_stream("aac", rate=8000, layout="mono")
        for number in range(8):
            sound = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            sound.rate, sound.pts = 8000, 1024 * number
            out.mux(track.encode(sound))
        out.mux(track.encode(None))
    return file.getvalue()


def bits_flipped() -> bytes:
    data = bytearray(clip_bytes(2, 64))
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    for place in range(start + size // 2, start + size, 3):
        data[place] ^= 0x55
    return bytes(data)


CLIPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero bytes": (lambda: b"", "0 bytes: a clip must hold a video"),
    "garbage": (lambda: bytes(range(256)) * 16, "no demuxer opens"),
    "audio only": (audio_only, "no video stream"),
    "cut short": (lambda: clip_bytes(2)[: len(clip_bytes(2)) // 2], "no demuxer opens"),
    "bits flipped": (bits_flipped, "decoding fails after"),
}


# Damage to a packed folder, of any format -------------------------------------------------------


def second_shard(folder: Path) -> Path:
    return folder / read_index(folder).shards[1].name


def second_sidecar(folder: Path) -> Path:
    return folder / read_index(folder).shards[1].entries_name


def garbage_in_the_middle(folder: Path) -> None:
    """Over the first sample of the second shard: what is before its record, and on to its clip."""
    path = second_shard(folder)
    first = _entries(folder, 1)[0]
    data = bytearray(path.read_bytes())
    begin, end = max(0, first.record.offset - 512), first.video.offset + 200
    data[begin:end] = b"\xa5" * (end - begin)
    path.write_bytes(data)


def bit_in_a_record(folder: Path) -> None:
    path = second_shard(folder)
    data = bytearray(path.read_bytes())
    data[_entries(folder, 1)[0].record.offset + 5] ^= 1
    path.write_bytes(data)


def cut_shard(folder: Path) -> None:
    os.truncate(second_shard(folder), _entries(folder, 1)[1].video.offset + 99)


def lose_shard(folder: Path) -> None:
    second_shard(folder).unlink()


def lose_sidecar(folder: Path) -> None:
    second_sidecar(folder).unlink()


def lose_line_of_sidecar(folder: Path) -> None:
    path = second_sidecar(folder)
    path.write_text(path.read_text().splitlines()[0] + "\n")


def other_checksum(folder: Path) -> None:
    _change_member(folder, crc32=12345)


def other_offset(folder: Path) -> None:
    _change_member(folder, offset=512)


def other_size(folder: Path) -> None:
    _change_member(folder, size=100)


def _entries(folder: Path, number: int):
    return read_entries(folder, read_index(folder).shards[number])


def _change_member(folder: Path, **changes: int) -> None:
    shard = read_index(folder).shards[1]
    first, *others = read_entries(folder, shard)
    member: Member = dataclasses.replace(first.video, **changes)
    entries = [dataclasses.replace(first, video=member), *others]
    write_entries(folder / shard.entries_name, entries)


def lose_index(folder: Path) -> None:
    (folder / INDEX_NAME).unlink()


def lose_sidecar_and_cut(folder: Path) -> None:
    cut_shard(folder)
    lose_sidecar(folder)


class Skipped(NamedTuple):
    """Training goes on without these clips."""

    damage: Callable[[Path], None]
    keys: frozenset[str]
    words: str
    during: bool = False  # the damage happens once the data set is open


FIRST, BOTH = frozenset({"v002"}), frozenset({"v002", "v003"})
SKIPPED = {
    "garbage in the middle of a tar": Skipped(garbage_in_the_middle, FIRST, "CRC-32"),
    "a bit of a record": Skipped(bit_in_a_record, FIRST, "v002.json: .*CRC-32"),
    "a shard cut short": Skipped(cut_shard, frozenset({"v003"}), "99 bytes with CRC-32"),
    "a shard cut short during the run": Skipped(
        cut_shard, frozenset({"v003"}), "99 bytes with CRC-32", during=True
    ),
    "a shard lost": Skipped(lose_shard, BOTH, "No such file"),
    "a shard lost during the run": Skipped(lose_shard, BOTH, "No such file", during=True),
    "the index has another checksum": Skipped(other_checksum, FIRST, "with 00003039"),
    "the index has another offset": Skipped(other_offset, FIRST, "CRC-32"),
    "the index has another size": Skipped(other_size, FIRST, "its index says 100"),
    "a sidecar lost": Skipped(lose_sidecar, frozenset(), ""),
    "a line of a sidecar lost": Skipped(lose_line_of_sidecar, frozenset(), ""),
}
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no index": (lose_index, "not a complete packed data set; make it with `gcg pack`"),
    "a sidecar lost and its tar cut short": (lose_sidecar_and_cut, "index.jsonl: cannot be read"),
}


def open_loader(
    folder: Path, quarantine: Quarantine, decoder: HostDecoder | None = None, **settings
) -> Loader:
    source = ShardSource(folder, max_lost_share=0.5)
    plan = Plan.for_source(
        source, seed=0, num_streams=1, global_batch=2, questions_per_visit=8, block_shards=4
    )
    decoder = decoder or HostDecoder(SIZE)
    return Loader(
        source, plan, collator(), decoder, num_frames=FRAMES, quarantine=quarantine, **settings
    )


def check_skipped(
    folder: Path, tmp_path: Path, case: Skipped, decoder: HostDecoder | None = None, **settings
) -> None:
    """An epoch is whole without the bad clips, which are listed and counted; a budget stops it."""
    listed = tmp_path / "run" / QUARANTINE_NAME
    if not case.during:
        case.damage(folder)
    with open_loader(folder, budget(listed), decoder, **settings) as loader:
        if case.during:
            case.damage(folder)
        steps = take(loader, loader.plan.steps_per_epoch(0))
        counters = loader.counters()
    assert len(steps) == NUM_CLIPS // 2
    assert all(len(batch.pixels) == 2 for step in steps for batch in step.micro)
    good = {f"v{number:03d}" for number in range(NUM_CLIPS)} - case.keys
    assert {name for name, _ in asked(steps)} == good
    assert counters["distinct"] == len(case.keys)
    assert counters["bad"] >= len(case.keys)
    assert counters["seen"] - counters["bad"] >= NUM_CLIPS  # and what was prefetched
    lines = listed.read_text().splitlines() if case.keys else []
    rows = {row["key"]: row for row in map(json.loads, lines)}
    assert rows.keys() == case.keys
    for row in rows.values():
        assert row.keys() == {"data", "shard", "key", "reason"}
        assert (row["data"], row["shard"]) == (str(folder), "shard-000001.tar")
        assert "\n" not in row["reason"]
        assert_words(case.words, row["reason"])
    if case.keys:
        strict = budget(max_bad_share=0.0)
        spent = pytest.raises(DataError, match=r"data\.max_bad_share is 0\.0.*shard-000001\.tar")
        with open_loader(folder, strict, decoder, **settings) as loader, spent:
            take(loader, loader.plan.steps_per_epoch(0))


def assert_words(words: str, text: str) -> None:
    position = -1
    for word in words.split(".*"):
        position = text.find(word, position + 1)
        assert position >= 0, (word, text)


@pytest.fixture
def packed(tmp_path) -> Path:
    return pack_clips(tmp_path, [1] * NUM_CLIPS).folder


@pytest.mark.parametrize("name", SKIPPED)
def test_damage_that_training_skips(packed, tmp_path, name):
    check_skipped(packed, tmp_path, SKIPPED[name])


@pytest.mark.parametrize("name", CLIPS)
def test_clips_that_are_whole_in_the_shard_but_do_not_decode(tmp_path, name):
    """As in a tar made elsewhere: the checksums are right, the clip was bad before."""
    folder = tmp_path / "packed"
    folder.mkdir()
    make, words = CLIPS[name]
    writer = TarShardWriter(folder, 1 << 20)
    for number in range(NUM_CLIPS):
        data = make() if number == 2 else clip_bytes(number)
        record = video(number, 1).model_copy(update={"frame_count": 16})
        writer.add(Clip(f"v{number:03d}", "mp4", data, record))
        if number % 2:
            writer.finish()
    write_index(folder, DatasetIndex(tuple(writer.shards), ""))
    check_skipped(folder, tmp_path, Skipped(lambda folder: None, FIRST, words))


def test_a_decoder_that_hangs(packed, tmp_path):
    release = threading.Event()
    try:
        case = Skipped(lambda folder: None, FIRST, "data.decode_timeout_s = 2 s")
        stuck = StuckDecoder({"v002.mp4"}, release)
        check_skipped(packed, tmp_path, case, stuck, decode_timeout_s=2.0)
    finally:
        release.set()


@pytest.mark.parametrize("name", REFUSED)
def test_damage_that_stops_training(packed, name):
    damage, words = REFUSED[name]
    damage(packed)
    with pytest.raises(DataError) as caught, open_loader(packed, budget()) as loader:
        take(loader, 4)
    assert_words(words, str(caught.value))


@pytest.mark.parametrize("damage", [cut_shard, lose_shard])
def test_lost_shards_past_the_share_are_refused_at_the_start(packed, damage, caplog):
    damage(packed)
    with pytest.raises(DataError, match=r"shard-000001\.tar: .*--repair OUT"):
        ShardSource(packed)
    with pytest.raises(DataError, match=r"shard-000001\.tar"):
        ShardSource(packed, max_lost_share=0.24)
    ShardSource(packed, max_lost_share=0.25).close()
    assert "shard-000001.tar" in caplog.text


# Damage that packing meets ----------------------------------------------------------------------


def listed_by_pack(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / QUARANTINE_NAME).read_text().splitlines()]


@pytest.mark.parametrize("name", [*CLIPS, "missing"])
def test_clips_that_packing_leaves_out(tmp_path, name):
    rows = [video(number, 2) for number in range(3)]
    write_clips(tmp_path, rows)
    path = tmp_path / rows[1].path
    if name == "missing":
        path.unlink()
        words = "no such file"
    else:
        make, words = CLIPS[name]
        path.write_bytes(make())
    report = pack(rows, tmp_path / "out", root=tmp_path)
    assert report.num_samples == 2
    (row,) = listed_by_pack(report.folder)
    assert (row["data"], row["stage"], row["key"]) == (str(report.folder), "pack", "v001")
    assert (row["path"], row["num_questions"]) == (rows[1].path, 2)
    assert words in row["reason"]


def test_a_clip_that_decodes_for_too_long_in_packing(tmp_path):
    """By the command, with the decoder that packing has: the clip is a minute's work."""
    rows = [video(number, 2) for number in range(3)]
    write_clips(tmp_path, rows)
    (tmp_path / rows[1].path).write_bytes(endless_clip())
    manifest, out = tmp_path / "train.jsonl", tmp_path / "out"
    write_manifest(manifest, rows)
    assert main(["pack", str(manifest), str(out), "--decode-timeout", "2"]) == 0
    assert sum(shard.num_samples for shard in read_index(out).shards) == 2
    (row,) = listed_by_pack(out)
    assert row["key"] == "v001"
    assert "--decode-timeout = 2 s" in row["reason"]


QUESTIONS = {
    "no answer": ({"answer": None}, "answer: None"),
    "an answer left out": ({"answer": "DROP"}, "answer: Field required"),
    "an empty answer": ({"answer": ""}, "answer: "),
    "an answer that is no option": ({"answer": "z"}, "is not options[answer_index]"),
    "answer_index past the options": ({"answer_index": 3}, "answer_index 3 not in 0..2"),
    "answer_index below 0": ({"answer_index": -1}, "answer_index -1 not in 0..2"),
    "no question": ({"question": ""}, "question: "),
}


def write_rows(path: Path, rows: list[Video], number: int, changes: dict) -> None:
    """A manifest in which the second question of row ``number`` is changed."""
    write_manifest(path, rows)
    lines = path.read_text().splitlines()
    row = json.loads(lines[number])
    row["questions"][1] |= changes
    row["questions"][1] = {k: v for k, v in row["questions"][1].items() if v != "DROP"}
    lines[number] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_that_packing_leaves_out(tmp_path, name):
    changes, words = QUESTIONS[name]
    rows = [video(number, 3) for number in range(3)]
    write_clips(tmp_path, rows)
    manifest = tmp_path / "train.jsonl"
    write_rows(manifest, rows, 1, changes)
    bad = BadQuestions()
    kept = list(read_manifest(manifest, bad))
    assert [len(row.questions) for row in kept] == [3, 2, 3]
    report = pack(kept, tmp_path / "out", root=tmp_path, bad_questions=bad.found)
    assert (report.num_samples, report.num_questions) == (3, 8)
    (row,) = listed_by_pack(report.folder)
    assert (row["key"], row["question"], row["place"]) == ("v001", "q1", f"{manifest}:2")
    assert words in row["reason"]
    again = pack(kept, tmp_path / "out", root=tmp_path, bad_questions=bad.found)
    assert again.reused
    assert again.bad_questions == report.bad_questions
    with pytest.raises(DataError, match=rf"{manifest}: 1 of 9 .*--max-bad-questions is 0 .*:2: "):
        list(read_manifest(manifest, BadQuestions(0)))
    with pytest.raises(DataError, match=rf"{manifest}:2: "):
        list(read_manifest(manifest))


def test_a_video_none_of_whose_questions_can_be_asked(tmp_path):
    manifest = tmp_path / "train.jsonl"
    rows = [video(0, 1), video(1, 2)]
    write_rows(manifest, rows, 1, {"answer": ""})
    row = json.loads(manifest.read_text().splitlines()[1])
    row["questions"] = row["questions"][1:]
    manifest.write_text(rows[0].model_dump_json() + "\n" + json.dumps(row) + "\n")
    bad = BadQuestions()
    assert [video.id for video in read_manifest(manifest, bad)] == ["v000"]
    assert [(found.video, found.question) for found in bad.found] == [("v001", "q1")]


def test_a_fault_of_the_row_itself_is_refused(tmp_path):
    manifest = tmp_path / "train.jsonl"
    write_rows(manifest, [video(0, 2)], 0, {"answer": ""})
    row = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**row, "width": -1}) + "\n")
    with pytest.raises(DataError, match=rf"{manifest}:1: width"):
        list(read_manifest(manifest, BadQuestions()))
