"""The loader benchmark's parts on a small clip: they measure what they say, and name what lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.loading import own
from benchmarks.loading.child import Child, ChildError
from benchmarks.loading.claims import decoding_claims
from benchmarks.loading.clips import Clip
from benchmarks.loading.decoding import Decoding, compare
from benchmarks.loading.report import summary
from benchmarks.results import Claim, markdown
from tests.dataloaders.clips import clip


@pytest.fixture
def small(tmp_path: Path) -> Clip:
    path = tmp_path / "small.mp4"
    path.write_bytes(clip(frames=60, options={"g": "12"}))
    return Clip("small", path, 60)


def test_contenders_take_turns_and_absent_ones_are_named(small: Clip, tmp_path: Path) -> None:
    names = ("ours", "PyAV sequential", "decord2")
    result = compare(
        [small],
        tmp_path,
        tmp_path / "no-sites",
        rounds=2,
        num_frames=4,
        copies=2,
        say=lambda text: None,
        contenders=names,
    )
    assert set(result.cpu) == {"ours", "PyAV sequential"}
    assert all(len(rows["small"]) == 2 and min(rows["small"]) > 0 for rows in result.cpu.values())
    assert not result.other_frames
    assert "decord" in result.missing["decord2"]
    claims = {claim.what: claim for claim in decoding_claims(result, [small])}
    assert claims["CPU of a clip, ours / decord2, geometric mean"].met is None
    text = markdown(summary(list(claims.values()), result, [small], ["a machine"]))
    assert "| small |" in text
    assert "- decord2 was left out: ModuleNotFoundError" in text


def test_ratios_are_taken_within_a_round() -> None:
    result = Decoding({"ours": {"a": [1.0, 4.0, 9.0]}, "other": {"a": [2.0, 8.0, 3.0]}})
    assert result.ratio("ours", "other", "a") == 0.5
    claim = Claim("x", "1", "2", met=False)
    assert "**no**" in markdown(summary([claim], result, [Clip("a", Path("a"), 1)], []))


def test_our_loader_in_a_process_of_its_own(small: Clip, tmp_path: Path) -> None:
    own.pack([small], 8, tmp_path / "packed")
    child = Child("benchmarks.loading.own", [str(tmp_path / "packed")])
    many = child.ask(action="loop", questions_per_visit=8, num_frames=4, steps=1)
    one = child.ask(action="loop", questions_per_visit=1, num_frames=4, steps=1)
    # One step of four visits.
    assert (many["visits"], many["pairs"]) == (4, 32)
    assert (one["visits"], one["pairs"]) == (4, 4)
    assert child.ask(action="bare", num_frames=4, steps=2)["visits"] == 8
    resumed = child.ask(action="resume", num_frames=4, step=1_000_000)
    assert resumed["epoch"] == 500_000
    with pytest.raises(ChildError, match="KeyError: 'nothing'"):
        child.ask(action="nothing")
    child.close()


def test_planning_counts_its_own_process() -> None:
    child = Child("benchmarks.loading.planning", [])
    answer = child.ask(shards=64, samples=6400, ranks=8)
    child.close()
    assert answer["steps"] > 1
    assert 0 <= answer["added_bytes"] < answer["peak_bytes"]
