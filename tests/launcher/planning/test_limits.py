"""What limits a step, the setting that moves it, and checkpoints: properties of the model."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config import RunConfig
from launcher.planning import describe_model, make_plan
from launcher.planning.checkpointing import (
    FAILURES,
    best_interval,
    checkpoint_bytes,
    lost_share,
)
from launcher.planning.data_rates import Sample, host_rate
from launcher.planning.limits import Part, run_limits
from launcher.planning.memory import run_engine
from launcher.planning.remedies import remedy
from launcher.planning.report import text, tree
from launcher.planning.search import Situation
from launcher.planning.timing import Hardware

from .runs import run


@cache
def start() -> Situation:
    model, census = describe_model(run())
    return Situation(
        census=census, model=model, device="cuda", hardware=Hardware(memory=80e9), nodes=1,
        question_tokens=16, pairs_per_visit=4, clip=(640, 480),
    )  # fmt: skip


def config(**engine: Any) -> RunConfig:
    data = {"global_batch": 32, "streams": 8, "questions_per_visit": 4}
    return run(data=data, engine={"micro_batch": 2, **engine})


def limits(hardware: Hardware, sample: Sample, own: RunConfig | None = None):
    return run_limits(own or config(), replace(start(), hardware=hardware), sample)


RATES = st.floats(-3, 3).map(lambda power: 10**power)


@given(mfu=RATES, nvlink=RATES, read=RATES, write=RATES, decode=RATES)
def test_the_bottleneck_is_the_largest_part(mfu, nvlink, read, write, decode):
    hardware = Hardware(memory=80e9, mfu=mfu, nvlink=nvlink, read=read * 1e6, write=write * 1e6)
    found = limits(hardware, Sample(decode, 1e6, known=False))
    parts = found.parts
    assert parts[found.bottleneck] == found.lower == max(parts.values())
    assert found.lower <= found.upper <= len(parts) * found.lower
    assert 0 <= found.efficiency[0] <= found.efficiency[1] <= 1


def test_each_part_moves_with_its_own_rate():
    sample = Sample(0.5, 1e6, known=False)
    plain = Hardware(memory=80e9)
    moved: tuple[tuple[str, Part], ...] = (
        ("tflops", "compute"),
        ("nvlink", "wire"),
        ("read", "read"),
    )
    for name, part in moved:
        half = replace(plain, **{name: getattr(plain, name) / 2})
        before, after = limits(plain, sample).parts, limits(half, sample).parts
        assert before[part] < after[part] <= 2 * before[part] * (1 + 1e-9)
        assert {k: v for k, v in before.items() if k != part and k != "checkpoint"} == {
            k: v for k, v in after.items() if k != part and k != "checkpoint"
        }


@pytest.mark.parametrize(
    ("hardware", "decode", "own", "expected"),
    [
        ({}, 50.0, config(), "model.input=features"),
        ({"read": 1e5}, 50.0, config(), "data.decoder=dali"),
        ({"nvlink": 1e-4}, 0.0, config(zero=3), "engine.zero=1"),
        ({"nvlink": 1e-4}, 0.0, config(zero=2), "engine.zero=1"),
        ({"nvlink": 1e-4}, 0.0, config(zero=1), "data.global_batch=128"),
        ({"tflops": 1e-3}, 0.0, config(recompute=["qformer", "llm"]), "engine.recompute=["),
        ({"tflops": 1e-3}, 0.0, config(), None),
        ({"read": 1.0}, 0.0, config(), None),
        ({"pcie": 1e-9}, 0.0, config(offload=["optimizer"]), "engine.offload=[]"),
        ({"pcie": 1e-6}, 0.0, config(), "checkpoint.every="),
    ],
)
def test_the_setting_that_moves_it(hardware, decode, own, expected):
    situation = replace(start(), hardware=Hardware(memory=80e9, **hardware))
    sample = Sample(decode, 1e3, known=False)
    found = remedy(own, situation, sample)
    if expected is None:
        assert found is None
        return
    assert found is not None
    assert found.setting.startswith(expected)
    before = run_limits(own, situation, sample)
    after = run_limits(found.config, situation, found.sample)
    faster = before.lower / after.lower * after.time.pairs / before.time.pairs
    assert found.gain == pytest.approx(faster)
    assert found.gain > 1


def test_a_setting_that_does_not_fit_is_not_named():
    slow = Hardware(memory=80e9, nvlink=1e-4)
    situation = replace(start(), hardware=slow)
    assert remedy(config(zero=3), situation, Sample(0.0, 1.0, known=False)) is not None
    tight = replace(start(), hardware=replace(slow, memory=1.0))
    assert remedy(config(zero=3), tight, Sample(0.0, 1.0, known=False)) is None


@given(cost=st.floats(0.01, 100), between=st.floats(1e4, 1e8))
def test_the_best_interval_loses_least(cost, between):
    best = best_interval(cost, between)
    young = math.sqrt(2 * cost * between)
    assert best == pytest.approx(young, rel=0.1)  # where failures are rare both agree
    least = lost_share(best, cost, between)
    for other in (0.25, 0.5, 2.0, 4.0):
        assert lost_share(other * best, cost, between) > least


def test_an_interval_is_no_longer_than_the_time_between_failures():
    assert best_interval(100.0, 40.0) == 40.0


def test_a_larger_cluster_fails_and_saves_more_often():
    found = []
    for world in (8, 64, 512, 4096):
        data = {"global_batch": 4 * world, "streams": world, "questions_per_visit": 4}
        own = run(data=data, engine={"micro_batch": 2}, scale={"num_workers": world})
        situation = replace(start(), nodes=world // 8)
        found.append(run_limits(own, situation, Sample(0.0, 1.0, known=False)).checkpoint)
    assert [one.between * FAILURES * world / 3600 for one, world in
            zip(found, (8, 64, 512, 4096), strict=True)] == pytest.approx([1.0] * 4)  # fmt: skip
    assert [one.best for one in found] == sorted((one.best for one in found), reverse=True)
    assert all(one.lost_at_best <= one.lost + 1e-12 for one in found)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_a_checkpoint_holds_what_is_trained(zero):
    engine = run_engine(config(zero=zero), "cuda")
    whole, rank = checkpoint_bytes(start().census, engine)
    trained = start().census.trained
    extra = 0 if zero == 3 else engine.element * trained
    assert whole == pytest.approx(12 * trained + extra, rel=1e-3)
    assert rank == pytest.approx(12 * trained / 8 + extra, rel=1e-3)


def test_decoding_scales_with_threads_and_features_need_none():
    assert host_rate(0.5, 16) == 32
    assert host_rate(0.0, 16) == math.inf
    features = limits(Hardware(memory=80e9), Sample(0.0, 23e6, known=False))
    assert features.parts["decode"] == 0
    assert features.data.bytes == 32 * 23e6


def test_the_report_says_it_in_words_and_as_json():
    plan = make_plan(config(), Hardware(memory=80e9))
    said = text(plan)
    assert "Limits of a step (s): computing" in said
    assert "bottleneck: decoding; model.input=features (`gcg extract`): " in said
    found = json.loads(json.dumps(tree(plan), allow_nan=False))["limits"]
    assert found["parts"][found["bottleneck"]] == found["lower"]
    assert found["remedy"]["setting"].startswith("model.input=features")
    alone = make_plan(config(), Hardware(memory=80e9), device="cpu")
    assert tree(alone)["limits"] is None
    assert "Limits" not in text(alone)
    assert "\n\n\n" not in text(alone)
