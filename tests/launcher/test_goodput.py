"""The account of a run's time: what is known of each history, and that nothing is lost of any."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.observe.events import Event, EventFile, read_events
from launcher.observe.goodput import CAUSES, USEFUL, Goodput, account
from launcher.observe.ledger import Ledger
from launcher.storage.run_folder import RunFolder


class History:
    """Writes down a run as its workers would, by a clock that the test turns."""

    def __init__(self) -> None:
        self.now, self.attempt = 1e9, 0
        self.events: list[Event] = []

    def add(self, kind: str, after: float = 0.0, **values: Any) -> None:
        self.now += after
        self.events.append({"kind": kind, "time": self.now, "attempt": self.attempt, **values})

    def start(self, step: int, wait: float = 1.0, build: float = 2.0) -> None:
        self.attempt += 1
        self.add("start", wait, world_size=2)
        self.add("ready", build, step=step)

    def steps(
        self, first: int, last: int, step_s: float, wait_s: float = 0.0, rest: float = 0.0,
        skipped: int = 0, skipped_s: float = 0.0,
    ) -> None:  # fmt: skip
        self.add(
            "steps", step_s + wait_s + skipped_s + rest, first=first, last=last,
            count=last - first + 1, step_s=step_s, wait_s=wait_s, skipped_s=skipped_s,
            skipped=skipped,
        )  # fmt: skip

    def saved(self, step: int, seconds: float) -> None:
        self.add("saved", seconds, step=step, seconds=seconds)


def parts(found: Goodput) -> dict[str, float]:
    return {cause: round(seconds, 6) for cause, seconds in found.parts.items() if seconds}


def test_each_cause_gets_its_time():
    run = History()
    run.add("launch")
    run.start(0, wait=3, build=4)
    run.steps(1, 10, step_s=10, wait_s=5, rest=0.5)
    run.saved(10, 2)
    run.steps(11, 14, step_s=3, wait_s=1, skipped=1, skipped_s=1)
    run.add("val", 6, step=14, seconds=6)
    run.add("end", 0.5, how="complete")
    found = account(run.events)
    assert parts(found) == {
        "step": 13, "data_wait": 6, "checkpoint": 2, "validation": 6, "skipped": 1,
        "startup": 7, "other": 1,
    }  # fmt: skip
    assert found.share == pytest.approx(13 / 36)
    assert (found.lost_steps, found.skipped_steps) == (0, 1)
    (only,) = found.attempts
    assert (only.first_step, only.last_step, only.how) == (0, 14, "complete")


def test_steps_that_are_done_again_are_lost_with_all_their_time():
    run = History()
    run.start(0)
    run.steps(1, 4, step_s=4)
    run.saved(4, 1)
    run.steps(5, 7, step_s=3, wait_s=2, rest=1)
    run.start(4, wait=20, build=5)  # killed; Ray starts others
    run.steps(5, 8, step_s=4)
    found = account(run.events)
    assert parts(found) == {
        "step": 8, "checkpoint": 1, "lost": 6, "startup": 2, "restart": 25
    }  # fmt: skip
    assert found.lost_steps == 3


def test_the_checkpoint_gone_too_loses_the_steps_before_it():
    run = History()
    run.start(0)
    run.steps(1, 2, step_s=2)
    run.saved(2, 1)
    run.steps(3, 4, step_s=2)
    run.saved(4, 1)
    run.start(2)
    assert parts(account(run.events))["lost"] == 3
    run.start(0)
    assert parts(account(run.events))["lost"] == 6
    assert USEFUL not in parts(account(run.events))


def test_time_without_a_command_is_none_of_the_restart():
    run = History()
    run.start(0)
    run.steps(1, 2, step_s=2)
    run.saved(2, 1)
    run.add("left", 0, step=2, reason="the command was asked to stop")
    run.add("over", 4)  # Ray's own end
    run.add("launch", 3600)
    run.start(2, wait=10, build=5)
    found = account(run.events)
    assert parts(found)["down"] == 3600
    assert parts(found)["restart"] == 15
    assert parts(found)["other"] == 4
    assert found.attempts[0].how == "left"


def test_a_roll_back_loses_its_steps_and_its_own_time():
    run = History()
    run.start(0)
    run.steps(1, 2, step_s=2)
    run.saved(2, 1)
    run.steps(3, 5, step_s=3)
    run.add("roll_back", 2, step=2)
    run.steps(3, 4, step_s=2)
    found = account(run.events)
    assert parts(found) == {"step": 4, "checkpoint": 1, "lost": 5, "startup": 2}
    assert found.lost_steps == 3


def test_no_events_no_time():
    found = account([])
    assert found.wall_s == 0
    assert found.share is None
    assert found.attempts == []


def test_clocks_that_differ_never_make_time_negative():
    run = History()
    run.start(0)
    run.steps(1, 2, step_s=2)
    run.now -= 100  # set back
    run.start(0)
    run.steps(1, 2, step_s=2)
    found = account(run.events)
    assert all(seconds >= 0 for seconds in found.parts.values())
    assert math.isclose(found.wall_s, found.end - found.begin)


def test_what_a_damaged_file_still_tells(tmp_path: Path):
    file = EventFile(tmp_path / "events.jsonl")
    file.add("launch")
    file.add("start", attempt=1, world_size=2)
    with (tmp_path / "events.jsonl").open("a") as half:
        half.write('{"kind": "steps", "ti')
    file.add("start", attempt=2, world_size=2)
    file.add("saved", attempt=1, step=4, seconds=1.0)  # by a worker that was cut off
    file.add("ready", attempt=2, step="four")
    file.add("ready", attempt=2, step=0)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert len(lines) == 7
    kinds = [(event["kind"], event.get("attempt")) for event in read_events(file_path(tmp_path))]
    assert kinds == [("launch", None), ("start", 1), ("start", 2), ("ready", 2)]
    assert read_events(tmp_path / "none") == []


def test_a_storage_that_takes_nothing_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "events.jsonl").mkdir()
    file = EventFile(tmp_path / "events.jsonl")
    assert [file.add("launch")["kind"] for _ in range(3)] == ["launch"] * 3
    assert len(caplog.records) == 1
    assert "the account of the run has gaps" in caplog.text


def file_path(root: Path) -> Path:
    return RunFolder(root).events


def test_the_ledger_writes_few_lines_and_goes_on_in_the_next_attempt(tmp_path: Path):
    folder = RunFolder(tmp_path)
    first = Ledger(folder, 1)
    first.record("start", world_size=2)
    first.record("ready", step=0)
    for number in range(1, 101):
        first.step(number, 0.0, 0.0, made=number != 50)
    with first.pause("saved", 100):
        pass
    first.flush()
    kinds = [event["kind"] for event in read_events(folder.events)]
    assert kinds == ["start", "ready", "steps", "saved"]
    (steps,) = (e for e in read_events(folder.events) if e["kind"] == "steps")
    assert (steps["first"], steps["last"], steps["count"], steps["skipped"]) == (1, 100, 100, 1)
    assert 0 <= first.goodput() <= 1  # type: ignore[operator]
    again = Ledger(folder, 2, flush_every_s=0)
    again.record("start", world_size=2)
    again.record("ready", step=100)
    again.step(101, 0.0, 0.0, made=True)
    assert len(account(read_events(folder.events)).attempts) == 2
    assert [json.loads(line)["attempt"] for line in folder.events.read_text().splitlines()] == [
        1, 1, 1, 1, 2, 2, 2
    ]  # fmt: skip


SECONDS = st.floats(0, 1e4, allow_nan=False)


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Runs that are killed, rolled back, left and taken up again anywhere."""
    run = History()
    step, saved = 0, [0]
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            run.add("launch", draw(SECONDS))
        step = draw(st.sampled_from(saved))
        saved = [each for each in saved if each <= step]
        run.start(step, draw(SECONDS), draw(SECONDS))
        for kind in draw(
            st.lists(st.sampled_from(["steps", "saved", "val", "back", "odd", "over"]))
        ):
            if kind == "steps":
                count = draw(st.integers(1, 5))
                skipped = draw(st.integers(0, count))
                run.steps(
                    step + 1, step + count, draw(SECONDS), draw(SECONDS), draw(SECONDS),
                    skipped, draw(SECONDS) if skipped else 0.0,
                )  # fmt: skip
                step += count
            elif kind == "saved":
                run.saved(step, draw(SECONDS))
                saved.append(step)
            elif kind == "val":
                run.add("val", draw(SECONDS), step=step, seconds=draw(SECONDS))
            elif kind == "back":
                step = saved[-1]
                run.add("roll_back", draw(SECONDS), step=step)
            else:
                run.add("over" if kind == "over" else "of a later release", draw(SECONDS))
        if draw(st.booleans()):
            run.add("left", draw(SECONDS), step=step, reason="asked")
    return run.events


@given(histories())
def test_the_parts_sum_to_the_wall_time_whatever_happened(events: list[Event]):
    found = account(events)
    assert list(found.parts) == list(CAUSES)
    assert all(seconds >= 0 for seconds in found.parts.values())
    # Times near 1e9 s are doubles 1e-7 s apart.
    assert math.isclose(
        found.wall_s, events[-1]["time"] - events[0]["time"], rel_tol=1e-9, abs_tol=1e-4
    )
    done = sum(event["count"] - event["skipped"] for event in events if event["kind"] == "steps")
    assert 0 <= found.lost_steps <= done
