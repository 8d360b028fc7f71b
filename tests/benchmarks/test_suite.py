"""`make bench`: a benchmark in a process of its own, its JSON, its part of a page; the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.__main__ import SUITE, kept, main, publish, run
from benchmarks.results import Claim, Curve, Ratio, Result, Table, interleaved, load, markdown, save
from tests.conftest import ROOT

FOUND = Result(
    "A thing",
    claims=(Claim("fast", "2.0", "≥ 1", True), Claim("small", "9", "≤ 1", False)),
    tables=(Table("Seconds", ("way", "s"), (("ours", "1"), ("theirs", "2"))),),
    curves=(Curve("cost", "Cost", "size", "s", {"ours": [(1.0, 2.0), (2.0, 3.0)]}),),
    notes=("a machine",),
    data={"seconds": [1, 2]},
)


def test_one_of_them_from_the_command_to_its_page(tmp_path: Path) -> None:
    assert main(["--out", str(tmp_path), "--only", "scaling_table", "--quick"]) == 0
    found = load(kept("scaling_table", tmp_path))
    assert found.tables
    page = (tmp_path / "performance.md").read_text(encoding="utf-8")
    assert "`python -m benchmarks --only scaling_table`" in page
    assert found.tables[0].rows[0][0] in page
    assert all((tmp_path / f"{curve.name}.svg").stat().st_size for curve in found.curves)


def test_one_that_fails_is_told_of_and_leaves_its_output(tmp_path: Path) -> None:
    kept("nothing", tmp_path).write_text("{}")  # an older run's figures are no result
    assert not run("nothing", tmp_path, quick=True)
    assert not kept("nothing", tmp_path).exists()
    assert "No module named benchmarks.nothing" in (tmp_path / "nothing.log").read_text()


def test_parts_go_between_their_marks_alone(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    page = tmp_path / "performance.md"
    other = "<!-- bench: b -->\nkept\n<!-- /bench -->\n"
    page.write_text(f"before\n<!-- bench: a -->\nold\n<!-- /bench -->\nafter\n{other}")
    for _ in range(2):  # the second time changes nothing
        publish({"a": FOUND, "elsewhere": FOUND}, None, tmp_path)
        text = page.read_text()
        assert "old" not in text
        assert text.count("## A thing") == 1
        assert text.startswith("before\n<!-- bench: a -->\n")
        assert text.endswith(f"<!-- /bench -->\nafter\n{other}")
    assert (tmp_path / "images" / "cost.svg").exists()


def test_every_benchmark_has_its_marks_on_one_page() -> None:
    pages = [(ROOT / "docs" / name).read_text() for name in ("performance.md", "scaling.md")]
    for name in (*SUITE, "gpu"):
        assert sum(page.count(f"<!-- bench: {name} -->") for page in pages) == 1, name


def test_results_are_kept_whole_and_say_what_is_not_met(tmp_path: Path) -> None:
    save(FOUND, tmp_path / "found.json")
    assert markdown(load(tmp_path / "found.json")) == markdown(FOUND)
    assert "| small | 9 | ≤ 1 | **no** |" in markdown(FOUND)


def test_ways_take_turns_and_ratios_are_of_a_turn() -> None:
    order: list[str] = []

    def way(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = interleaved({n: lambda n=n: way(n) for n in "ab"}, 3, warm=1)
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert [len(values) for values in found.values()] == [3, 3]
    ratio = Ratio.of([2.0, 30.0, 8.0], [1.0, 10.0, 4.0])
    assert ratio.median == 2.0
    assert (ratio.low, ratio.high) == (2.0, 3.0)
    assert ratio.at_most("x", 2.0).met
    assert not ratio.at_least("x", 2.1).met


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--out"]])
def test_a_wrong_command_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
