"""fp16 with loss scaling on gloo, what a precision becomes in the profile, and abilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.checks.abilities import missing_abilities, slow_settings
from launcher.config import fingerprint
from launcher.errors import ConfigError, RunStoppedError
from launcher.training.engine import engine_profile, model_dtype
from launcher.training.step import MAX_SKIPPED, StepResult
from tests.spawn import run_ranks

from .test_engine import Attempt, same
from .toy import toy_config

# ZeRO stage and what is offloaded.
CASES = [
    (1, ()),
    (2, ()),
    (3, ()),
    (2, ("optimizer",)),
    (3, ("optimizer", "weights")),
]


@dataclass(frozen=True)
class Trained:
    """What one rank saw of an fp16 run at one ZeRO stage."""

    results: list[StepResult]
    weights_stood_still: bool
    resumed_alike: bool
    said: list[str]


def fp16_attempt(storage: Path, case: Any, **changes: Any) -> Attempt:
    """An attempt at the toy run in fp16.

    DeepSpeed refuses fp16 on a CPU without fp16 instructions. Torch computes in it on any, in
    software, so for this one small model the refusal is lifted; all that follows is real.
    """
    from deepspeed.accelerator import get_accelerator

    accelerator: Any = get_accelerator()
    accelerator.is_fp16_supported = lambda: True
    changes |= {"engine__zero": case[0], "engine__offload": list(case[1])}
    return Attempt(storage, engine__precision="fp16", **changes)


def train_in_fp16(root: str) -> dict[Any, Trained]:
    """Steps 2 and 3 overflow: the loss scale is raised until they must."""
    found = {}
    for case in CASES:
        storage = Path(root) / str(len(found))
        attempt = fp16_attempt(storage, case, engine__loss_scale_power=8)
        results = attempt.train(0, 2)
        scaler = attempt.engine.optimizer.loss_scaler
        scaler.cur_scale, scaler.cur_hysteresis = 2.0**30, 1
        before = attempt.masters()
        results += attempt.train(2, 4)
        still = same(before, attempt.masters())
        scaler.cur_scale = 2.0**8
        results += attempt.train(4, 6)
        attempt.save(6)
        results += attempt.train(6, 8)
        final = attempt.masters()
        attempt.engine.destroy()

        resumed = fp16_attempt(storage, case, engine__loss_scale_power=8)
        position = resumed.keeper.restore()
        assert position is not None
        again = resumed.train(position.step, 8)
        alike = again == results[6:] and same(final, resumed.masters())
        said = stopped_by_overflows(resumed)
        resumed.engine.destroy()
        found[case] = Trained(results, still, alike, said)
    return found


def stopped_by_overflows(attempt: Attempt) -> list[str]:
    """What a run says whose weights have become useless, after how many steps."""
    with torch.no_grad():
        for parameter in attempt.engine.module.parameters():
            parameter.fill_(float("nan"))  # under ZeRO-3 empty, unless it is one kept gathered
            if hasattr(parameter, "ds_tensor"):
                parameter.ds_tensor.fill_(float("nan"))
    try:
        for step in range(8, 8 + 2 * MAX_SKIPPED):
            attempt.train(step, step + 1)
    except RunStoppedError as error:
        return error.lines
    return []


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Trained]]:
    return run_ranks(train_in_fp16, 2, str(tmp_path_factory.mktemp("fp16")))


@pytest.mark.parametrize("case", CASES)
def test_overflows_are_skipped_and_counted_alike_on_every_rank(
    trained: list[dict[Any, Trained]], case: Any
):
    first, second = (found[case] for found in trained)
    assert first.results == second.results
    results = first.results
    assert [result.skipped_steps for result in results] == [0, 0, 1, 2, 2, 2, 2, 2]
    assert [result.grad_norm == float("inf") for result in results[:6]] == [
        False, False, True, True, False, False,
    ]  # fmt: skip
    assert results[2].loss_scale == 2.0**29  # halved by the first overflow
    assert results[3].loss_scale == 2.0**28
    assert first.weights_stood_still
    assert results[-1].loss < results[0].loss
    # The schedule goes by the step alone: as if nothing had been skipped.
    config = toy_config(Path("unused"))
    assert results[3].lr == pytest.approx(config.optim.lr, rel=0.1)
    assert [r.lr for r in results[2:]] == sorted((r.lr for r in results[2:]), reverse=True)


@pytest.mark.parametrize("case", CASES)
def test_fp16_resumes_bit_for_bit(trained: list[dict[Any, Trained]], case: Any):
    assert all(found[case].resumed_alike for found in trained)


@pytest.mark.parametrize("case", CASES)
def test_endless_overflow_stops_all_ranks_with_a_line(trained: list[dict[Any, Trained]], case: Any):
    first, second = (found[case].said for found in trained)
    assert first == second
    assert first[0].startswith(f"step {8 + MAX_SKIPPED}: {MAX_SKIPPED} updates in a row")
    assert "engine.precision=bf16" in first[0]


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)],
)
def test_the_profile_says_the_precision(tmp_path: Path, precision: str, dtype: torch.dtype):
    config = toy_config(tmp_path, engine__precision=precision, engine__loss_scale_power=10)
    profile = engine_profile(config)
    assert profile["bf16"]["enabled"] == (precision == "bf16")
    assert profile["fp16"]["enabled"] == (precision == "fp16")
    assert profile["fp16"]["initial_scale_power"] == 10
    assert model_dtype(config) == dtype


def test_recomputing_changes_nothing_learned_so_a_run_may_begin_to(tmp_path: Path):
    kept = toy_config(tmp_path)
    recomputed = toy_config(tmp_path, engine__recompute=["qformer", "llm"])
    assert fingerprint(kept) == fingerprint(recomputed)
    assert fingerprint(kept) != fingerprint(toy_config(tmp_path, engine__loss_scale_power=8))
    with pytest.raises(
        ConfigError, match=r"engine\.recompute\[0\] = 'lm': must be one of 'vision'"
    ):
        toy_config(tmp_path, engine__recompute=["lm"])


def lines(tmp_path: Path, **changes: Any) -> list[str]:
    return list(missing_abilities(toy_config(tmp_path, **changes)))


def test_what_needs_a_gpu_is_refused_without_one(tmp_path: Path):
    llm = {"attention": "flash_attention_2", "liger": True, "quantize": "nf4"}
    found = lines(tmp_path, model__llm=llm, engine__zero=3)
    settings = ["attention = flash_attention_2", "liger = true", "quantize = nf4"]
    for line, setting in zip(found, [*settings, "quantize = nf4"], strict=True):
        assert line.startswith(f"model.llm.{setting}: ")
    assert all("scale.use_gpu=true" in line for line in found[:3])
    assert "ZeRO-3" in found[3]
    assert lines(tmp_path) == []


@pytest.mark.parametrize(
    ("package", "llm"),
    [
        ("flash_attn", {"attention": "flash_attention_2"}),
        ("liger_kernel", {"liger": True}),
        ("bitsandbytes", {"quantize": "nf4"}),
    ],
)
def test_a_package_that_is_not_there_is_named(tmp_path: Path, package: str, llm: dict[str, Any]):
    from importlib.util import find_spec

    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed here")
    (line,) = lines(tmp_path, model__llm=llm, scale__use_gpu=True)
    assert f"pip install {package.replace('_', '-')}" in line


def test_fp16_is_refused_where_the_cpu_cannot_compute_it(tmp_path: Path):
    found = lines(tmp_path, engine__precision="fp16")
    if torch.ops.mkldnn._is_mkldnn_fp16_supported():
        assert found == []
    else:
        assert found == [
            "engine.precision = fp16: this CPU has no fp16 arithmetic; use bf16 or fp32, or "
            "scale.use_gpu=true"
        ]
    assert lines(tmp_path, engine__precision="fp16", scale__use_gpu=True) == []


def test_emulated_bf16_is_pointed_out(tmp_path: Path):
    found = list(slow_settings(toy_config(tmp_path, engine__precision="bf16")))
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert found == []
    else:
        (line,) = found
        assert line.startswith("engine.precision = bf16: ")
        assert "engine.precision=fp32" in line
    gpu = toy_config(tmp_path, engine__precision="bf16", scale__use_gpu=True)
    assert list(slow_settings(gpu)) == []
    assert list(slow_settings(toy_config(tmp_path, engine__precision="fp32"))) == []


def test_offload_without_a_gpu_is_pointed_out(tmp_path: Path):
    changes = {"engine__precision": "fp32", "engine__offload": ["optimizer"]}
    (line,) = slow_settings(toy_config(tmp_path, **changes))
    assert line.startswith("engine.offload = ['optimizer']: saves GPU memory")
    assert list(slow_settings(toy_config(tmp_path, **changes, scale__use_gpu=True))) == []


def test_a_model_that_cannot_be_built_is_refused(tmp_path: Path):
    (line,) = lines(tmp_path, model__grounding={"width": 10, "num_heads": 4})
    assert line.startswith("model.grounding.width = 10: must be a multiple of num_heads")
    (line,) = lines(
        tmp_path, model__preset="instructblip", model__checkpoint=str(tmp_path / "nothing")
    )
    assert line.startswith("model.checkpoint = ")
