"""The table of plans: real plans of the largest and the smallest model."""

from __future__ import annotations

from benchmarks.plan_table import row, table
from launcher.planning.timing import Hardware


def test_a_70b_llm_fits_80_gb_only_sharded():
    found = row("Llama-3.3-70B", 16, Hardware(memory=80e9))
    assert 71e9 < found["parameters"] < 73e9
    assert found["least"][1] > 80e9
    assert found["least"][2] > 80e9
    assert found["least"][3] < found["best"]["peak"] <= 80e9
    assert found["best"]["zero"] == 3
    arithmetic = found["best"]["micro_batch"] * found["best"]["accumulation"] * 16
    assert arithmetic == 128


def test_what_does_not_fit_is_said():
    found = row("flan-t5-xl", 8, Hardware(memory=2.5e9))
    assert found["best"] is None
    lines = table([found]).splitlines()
    assert lines[-1].endswith("| none | – | – | – |")
    assert lines[-1].count("|") == lines[0].count("|")


def test_what_fits_with_offload_alone_says_so():
    found = row("flan-t5-xl", 8, Hardware(memory=5.5e9))
    assert min(found["least"].values()) > 5.5e9 >= found["best"]["peak"]
    assert "offload" in table([found]).splitlines()[-1]
