"""Every kind of damage to shards, and what training makes of it. ``docs/data.md`` has the table;
what packing meets is in ``test_damage_in_packing.py``."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from dataloaders.errors import DataError
from dataloaders.fetch import HostDecoder
from dataloaders.index import DatasetIndex, write_index
from dataloaders.ingest import Clip
from dataloaders.left_out import QUARANTINE_NAME
from dataloaders.loader import Loader
from dataloaders.plan import Plan
from dataloaders.quarantine import Quarantine
from dataloaders.shard_source import ShardSource
from dataloaders.shard_writer import TarShardWriter
from tests.dataloaders.damage import (
    CLIPS,
    bit_in_a_record,
    cut_shard,
    garbage_in_the_middle,
    lose_index,
    lose_line_of_sidecar,
    lose_shard,
    lose_sidecar,
    lose_sidecar_and_cut,
    other_checksum,
    other_offset,
    other_size,
)
from tests.dataloaders.loader_fixtures import FRAMES, SIZE, asked, budget, take
from tests.dataloaders.shard_fixtures import clip_bytes, collator, pack_clips, video
from tests.dataloaders.test_time_limit import StuckDecoder

NUM_CLIPS = 8  # two in each of four shards


# Damage to a packed folder, of any format -------------------------------------------------------


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
