"""Decoders that hang, on purpose: the clip is given up, the loader goes on, the process ends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dataloaders.container import decode_all
from dataloaders.errors import DataError
from dataloaders.eval_loader import EvalLoader
from dataloaders.fetch import HostDecoder
from dataloaders.loader import Loader
from dataloaders.plan import Plan
from dataloaders.shard_source import ShardSource
from dataloaders.time_limit import GivenUpError, TimeLimit, TimeLimitError, TooManyStuckError
from tests.dataloaders.clips import clip
from tests.dataloaders.loader_fixtures import FRAMES, SIZE, asked, assert_same, budget, take
from tests.dataloaders.shard_fixtures import collator, pack_clips

# Good clips here take a hundredth of it, so that a machine that stalls makes none of them bad.
LIMIT_S = 2.0


class StuckDecoder(HostDecoder):
    """Decodes, but never comes back from the clips named until ``release`` is set.

    Then it writes to the memory that it was given, as a decoder that hung while writing would.
    """

    def __init__(self, names: set[str], release: threading.Event):
        super().__init__(SIZE)
        self.names, self.release = names, release
        self.wrote = threading.Event()

    def __call__(self, data, indices, *, frame_count, name, **room):
        if name in self.names:
            self.release.wait()
            if "out" in room:
                room["out"].fill_(7.0)
                self.wrote.set()
        return super().__call__(data, indices, frame_count=frame_count, name=name, **room)


@pytest.fixture
def release():
    event = threading.Event()
    yield event
    event.set()


def test_results_errors_and_threads_come_back():
    limit = TimeLimit(60)
    assert [limit.run(lambda n=n: n * n, "clip") for n in range(5)] == [0, 1, 4, 9, 16]
    threads = {limit.run(threading.get_ident, "clip") for _ in range(5)}
    assert len(threads) == 1  # one after the other, by one thread that is not ours
    assert threads != {threading.get_ident()}
    with pytest.raises(KeyError, match="lost"):
        limit.run(lambda: {}["lost"], "clip")
    limit.close()
    assert limit.run(threading.get_ident, "clip") != threading.get_ident()
    limit.close()
    assert TimeLimit(0).run(threading.get_ident, "clip") == threading.get_ident()


@pytest.mark.parametrize("limit_s", [-1, float("nan"), float("inf")])
def test_a_limit_that_is_none(limit_s):
    with pytest.raises(DataError, match=r"data\.decode_timeout_s: .*0 for no limit"):
        TimeLimit(limit_s)


def test_too_many_stuck_threads_are_an_error_of_their_own(release):
    before = set(threading.enumerate())
    limit = TimeLimit(0.01, max_stuck=2)
    for number in (1, 2):
        with pytest.raises(TimeLimitError, match=r"a\.mp4: .*data\.decode_timeout_s = 0\.01 s"):
            limit.run(release.wait, "a.mp4")
        assert (limit.stuck, limit.timeouts) == (number, number)
    with pytest.raises(TooManyStuckError, match="3 threads hang, at most 2"):
        limit.run(release.wait, "a.mp4")
    stuck = set(threading.enumerate()) - before
    release.set()
    for thread in stuck:
        thread.join(60)
    assert (limit.stuck, limit.timeouts) == (0, 3)


def test_work_that_was_given_up_ends_at_the_next_frame(release):
    """A long clip is not a stuck decoder: its thread ends once nobody waits for it."""
    ended = threading.Event()
    seen: list[int] = []

    def visit(number: int, frame: object) -> None:
        seen.append(number)
        release.wait()

    def work() -> None:
        try:
            decode_all(clip(frames=20), visit)
        except GivenUpError:
            ended.set()
            raise

    limit = TimeLimit(0.2)
    with pytest.raises(TimeLimitError):
        limit.run(work, "long.mp4")
    release.set()
    assert ended.wait(60)
    assert len(seen) <= 1


def make(folder: Path, decoder: HostDecoder, **settings) -> Loader:
    source = ShardSource(folder)
    plan = Plan.for_source(
        source, seed=0, num_streams=1, global_batch=2, questions_per_visit=8, block_shards=4
    )
    return Loader(source, plan, collator(), decoder, num_frames=FRAMES, **settings)


def test_a_stuck_clip_is_replaced_listed_and_not_tried_again(tmp_path, release):
    folder = pack_clips(tmp_path, [1] * 8).folder
    path = tmp_path / "quarantine.jsonl"
    decoder = StuckDecoder({"v003.mp4"}, release)
    with make(folder, decoder, quarantine=budget(path), decode_timeout_s=LIMIT_S) as loader:
        assert loader.plan.steps_per_epoch(0) == 4
        steps = take(loader, 12)  # three epochs: the clip comes again, the wait does not
        counters = loader.counters()
    assert "v003" not in {video for video, _ in asked(steps)}
    assert all(len(b.pixels) == 2 for step in steps for b in step.micro)
    assert counters["timeouts"] == counters["distinct"] == 1
    assert counters["bad"] >= 3
    (row,) = (json.loads(line) for line in path.read_text().splitlines())
    assert (row["data"], row["key"]) == (str(folder), "v003")
    assert row["shard"] in {shard.name for shard in ShardSource(folder).shards}
    assert "data.decode_timeout_s = 2 s" in row["reason"]

    # The same bad set without a clock: the same batches.
    class Refusing(HostDecoder):
        def __call__(self, data, indices, *, frame_count, name, **room):
            if name == "v003.mp4":
                raise DataError("no")
            return super().__call__(data, indices, frame_count=frame_count, name=name, **room)

    # What was given up writes to its memory late: no batch has that memory.
    release.set()
    assert decoder.wrote.wait(30)
    with make(folder, Refusing(SIZE), quarantine=budget(), decode_timeout_s=0) as loader:
        assert_same(take(loader, 12), steps)


def test_evaluation_counts_its_questions_as_skipped(tmp_path, release):
    folder = pack_clips(tmp_path, [2, 1, 1]).folder
    loader = EvalLoader(
        ShardSource(folder), collator(), StuckDecoder({"v001.mp4"}, release),
        num_frames=FRAMES, decode_timeout_s=LIMIT_S,
    )  # fmt: skip
    videos = {video for batch in loader if batch for video in batch.meta.videos}
    assert videos == {"v000", "v002"}
    (skipped,) = loader.skipped
    assert (skipped.video, skipped.question) == ("v001", "q0")
    assert "took longer than" in skipped.reason


EXIT = """
import sys, threading
from dataloaders.errors import DataError
from tests.dataloaders.loader_fixtures import budget
from tests.dataloaders.test_time_limit import StuckDecoder, make

never = threading.Event()
names = {f"v{i:03d}.mp4" for i in range(4)}
decoder = StuckDecoder(names, never)
strict = budget(max_consecutive=2)
with make(sys.argv[1], decoder, quarantine=strict, decode_timeout_s=0.05) as loader:
    try:
        next(loader)
    except DataError as error:
        print(error)
print("closed", threading.active_count())
"""


def test_a_process_with_stuck_threads_ends(tmp_path):
    folder = pack_clips(tmp_path, [1] * 4).folder
    done = subprocess.run(
        [sys.executable, "-c", EXIT, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    error, closed = done.stdout.splitlines()
    assert "bad clips in a row" in error
    assert closed.startswith("closed ")
    assert int(closed.split()[1]) > 1  # they do hang
