"""MDS beside tar: the same batches, readable by StreamingDataset, packed again, interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dataloaders.errors import DataError
from dataloaders.index import INDEX_NAME, OWN_INDEX_NAME, read_index
from dataloaders.open_source import open_source
from dataloaders.shard_writer import open_writer
from dataloaders.shards import pack
from tests.dataloaders.loader_fixtures import COUNTS, assert_same, make, take
from tests.dataloaders.mds_fixtures import packed, read_all
from tests.dataloaders.shard_fixtures import clip_bytes, needs_mds, pack_clips, video, write_clips

__all__ = ["packed"]  # fixtures

pytestmark = needs_mds


def test_tar_and_mds_of_a_manifest_give_the_same_batches(packed, tmp_path):
    tars = pack_clips(tmp_path, COUNTS).folder
    one, two = open_source(tars), open_source(packed)
    assert [s.question_counts for s in one.shards] == [s.question_counts for s in two.shards]
    assert read_all(one) == read_all(two)
    for rank, world_size in ((0, 1), (1, 2)):
        with (
            make(tars, rank=rank, world_size=world_size, micro_batch=1) as a,
            make(packed, rank=rank, world_size=world_size, micro_batch=1) as b,
        ):
            steps = a.plan.steps_per_epoch(0) + 2
            assert_same(take(a, steps), take(b, steps))


PLAIN_READER = """
import hashlib, json, sys
from streaming import StreamingDataset
data = StreamingDataset(local=sys.argv[1], batch_size=1, shuffle=False, validate_hash="sha256")
rows = [data[i] for i in range(len(data))]
print(json.dumps([[r["key"], r["suffix"], json.loads(r["record"])["id"],
                   hashlib.sha256(r["video"]).hexdigest()] for r in rows]))
"""


def test_a_plain_streaming_dataset_reads_the_folder(packed, tmp_path):
    # In a process and with temporary files of its own: it leaves shared memory and locks.
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_READER, str(packed)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [
        [f"v{i:03d}", "mp4", f"v{i:03d}", hashlib.sha256(clip_bytes(i)).hexdigest()]
        for i in range(len(COUNTS))
    ]


def test_packing_again_and_in_another_format(tmp_path):
    videos = [video(i) for i in range(4)]
    write_clips(tmp_path, videos)
    first = pack(videos, tmp_path / "out", root=tmp_path, format="mds")
    assert pack(videos, tmp_path / "out", root=tmp_path, format="mds").reused
    with pytest.raises(DataError, match="--overwrite"):
        pack(videos, tmp_path / "out", root=tmp_path)
    tars = pack(videos, tmp_path / "out", root=tmp_path, overwrite=True)
    assert not list((tmp_path / "out").glob("*.mds"))
    assert not (tmp_path / "out" / OWN_INDEX_NAME).exists()
    assert open_source(tmp_path / "out").fingerprint == read_index(tmp_path / "out").fingerprint
    again = pack(videos, tmp_path / "out", root=tmp_path, format="mds", overwrite=True)
    assert again.shards == first.shards != tars.shards
    assert not list((tmp_path / "out").glob("*.tar"))


def test_an_interrupted_pack_is_no_data_set_and_is_made_again(tmp_path):
    videos = [video(i) for i in range(5)]
    write_clips(tmp_path, videos)
    out = tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(videos, out, root=tmp_path, shard_bytes=1, format="mds", progress=stop)
    assert list(out.glob("shard.*.mds"))
    with pytest.raises(DataError, match="not a complete packed data set"):
        open_source(out)
    report = pack(videos, out, root=tmp_path, format="mds")
    assert len(report.shards) == 1
    assert sorted(path.name for path in out.iterdir()) == [
        OWN_INDEX_NAME, INDEX_NAME, "quarantine.jsonl", "shard.00000.index.jsonl",
        "shard.00000.mds",
    ]  # fmt: skip


def test_shards_too_big_for_the_format(tmp_path):
    with pytest.raises(DataError, match=r"shard_bytes: 4294967296: at most .*--format wds"):
        open_writer("mds", tmp_path, 1 << 32)


def test_a_folder_of_another_writer_says_what_to_do(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "bare")
    (tmp_path / "bare" / OWN_INDEX_NAME).unlink()
    with pytest.raises(DataError, match=r"index of another library.*gcg index"):
        open_source(tmp_path / "bare")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_reading_takes_no_shared_memory(packed):
    def shared() -> list[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return sorted(line.split()[-1] for line in lines if "/dev/shm/" in line)

    before = shared()
    source = open_source(f"file://{packed}")
    assert len(read_all(source)) == len(COUNTS)
    assert shared() == before
