"""Real training on one GPU: every precision and ZeRO stage, resume, Liger kernels, 4-bit weights.

Needs a CUDA device, and for two tests liger-kernel and bitsandbytes; skips itself without.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from gcg.build import build_model
from launcher.api import export, predict
from launcher.config import RunConfig, parse_run_config
from launcher.observe.runlog import read_metrics
from launcher.predict.predictor import Predictor
from launcher.storage.run_folder import RunFolder, read_json
from launcher.training.build import build_parts
from launcher.training.data import build_loader
from launcher.training.engine import model_dtype
from launcher.training.step import to_inputs
from launcher.training.upload import Upload
from launcher.training.worker import run_worker
from tests.gcg.weights.checkpoints import Sizes, make_llm
from tests.spawn import run_ranks

from .conftest import run_tree
from .trained_runs import trained_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

STEPS = 6
OPTIM = {"steps": STEPS, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 1}


def run(config: RunConfig) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    run_worker(config, lambda figures: None)


def make(
    packed: Path, storage: Path, name: str, *, use_gpu: bool = True, **sections: dict[str, Any]
) -> RunConfig:
    """A run in one process, with a checkpoint half way."""
    tree = run_tree(
        packed,
        storage,
        run={"name": name},
        scale={"num_workers": 1, "use_gpu": use_gpu},
        optim=OPTIM,
        checkpoint={"every": STEPS // 2},
        **sections,
    )
    return parse_run_config(tree)


def logged(config: RunConfig) -> list[dict[str, Any]]:
    """The steps that a run logged, and that nothing stopped it."""
    folder = RunFolder(config.folder)
    stopped = read_json(folder.stopped)
    assert stopped is None, stopped
    return [row for row in read_metrics(folder.metrics) if row["kind"] == "train"]


def trained(*place: Any, use_gpu: bool = True, **sections: dict[str, Any]) -> list[dict[str, Any]]:
    """The logged steps of a run that :func:`make` describes."""
    config = make(*place, use_gpu=use_gpu, **sections)
    run_ranks(run, 1, config, on_gpu=use_gpu)
    return logged(config)


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_fp32_gives_the_losses_of_the_cpu(packed: Path, tmp_path: Path, zero: int):
    engine = {"zero": zero, "precision": "fp32", "micro_batch": 2}
    on_gpu = trained(packed, tmp_path, "gpu", engine=engine)
    on_cpu = trained(packed, tmp_path, "cpu", use_gpu=False, engine=engine)
    # Six steps of fp32 rounding in another order; a wrong mask or seed shows in the first digits.
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-3)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=2e-2)
        assert 0 < ours["cuda_peak_gb"] < 100
        assert ours["mfu"] is None or 0 < ours["mfu"] < 1  # None: a card that is not listed
        assert "cuda_peak_gb" not in theirs


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("zero", [2, 3])
def test_half_precision_trains_near_fp32(packed: Path, tmp_path: Path, precision: str, zero: int):
    whole = trained(
        packed, tmp_path, "fp32", engine={"zero": zero, "precision": "fp32", "micro_batch": 2}
    )
    half = trained(
        packed,
        tmp_path,
        precision,
        engine={"zero": zero, "precision": precision, "micro_batch": 2, "loss_scale_power": 10},
    )
    assert half[0]["loss"] == pytest.approx(whole[0]["loss"], rel=0.03)
    assert all(row["loss"] == pytest.approx(row["loss"]) for row in half)  # none is NaN
    if precision == "fp16":
        assert half[-1]["loss_scale"] >= 1


@pytest.mark.parametrize(
    ("zero", "offload"), [(2, ["optimizer"]), (3, ["weights"]), (3, ["optimizer", "weights"])]
)
def test_offload_gives_the_losses_without_it(
    packed: Path, tmp_path: Path, zero: int, offload: list[str]
):
    engine = {"zero": zero, "precision": "fp32", "micro_batch": 2}
    without = trained(packed, tmp_path, "without", engine=engine)
    own = trained(packed, tmp_path, "offloaded", engine={**engine, "offload": offload})
    for ours, theirs in zip(own, without, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-3)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=2e-2)


def test_resuming_gives_the_same_losses_bit_for_bit(packed: Path, tmp_path: Path):
    whole = trained(packed, tmp_path, "whole")
    config = make(packed, tmp_path, "parts")
    run_ranks(stop_half_way, 1, config, on_gpu=True)
    assert len(logged(config)) == STEPS // 2
    run_ranks(run, 1, config, on_gpu=True)
    assert [(row["step"], row["loss"], row["grad_norm"]) for row in logged(config)] == [
        (row["step"], row["loss"], row["grad_norm"]) for row in whole
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_uploaded_inputs_are_those_of_the_step(packed: Path, tmp_path: Path, precision: str):
    """On a stream of their own, cast on the way, and without a moment's wait of the host."""
    config = make(packed, tmp_path, "upload", engine={"precision": precision, "micro_batch": 2})
    parts = build_parts(config.model, build_model(config.model, config.run.seed))
    device = torch.device("cuda", 0)
    upload = Upload(device, model_dtype(config))
    source, loader = build_loader(config, parts, 0, 1, tmp_path / "quarantine.jsonl")
    with source, loader:
        steps = [next(loader) for _ in range(3)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        staged = [upload.prepare(step) for step in steps]
        for step in staged:
            upload.receive(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for step, own in zip(staged, steps, strict=True):
        for micro, plain in zip(step.micro, own.micro, strict=True):
            found = micro.model_inputs()
            wanted = to_inputs(plain.model_inputs(), device, config)
            assert found.keys() == wanted.keys()
            for name, tensor in wanted.items():
                other = found[name]
                assert (tensor is None) == (other is None)
                if tensor is not None and other is not None:
                    assert (other.device, other.dtype) == (tensor.device, tensor.dtype)
                    assert torch.equal(other, tensor), name


class Lost(BaseException):
    """What a worker meets in mid-run."""


def stop_half_way(config: RunConfig) -> None:
    """A worker that is lost right after its first checkpoint."""

    def report(figures: Any) -> None:
        raise Lost

    with pytest.raises(Lost):
        run_worker(config, report)


# Widths that the fused kernels and 4-bit blocks take.
WIDE = Sizes(llm_width=128, llm_heads=2, llm_ffn=256)


def with_llm(folder: Path, **llm: Any) -> dict[str, Any]:
    if not (folder / "config.json").exists():
        make_llm(folder, "llama", WIDE)
    return {"mode": "uniform", "num_frames": 8, "num_moments": 2, "llm": {
        "name": str(folder), "max_answer_tokens": 6, **llm,
    }}  # fmt: skip


@pytest.mark.skipif(not importlib.util.find_spec("liger_kernel"), reason="no liger-kernel")
def test_liger_kernels_give_nearly_the_same_losses(packed: Path, tmp_path: Path):
    engine = {"zero": 2, "precision": "bf16", "micro_batch": 2}
    losses = {}
    for liger in (False, True):
        model = with_llm(tmp_path / "llm", train="full", liger=liger)
        losses[liger] = trained(packed, tmp_path, f"liger-{liger}", engine=engine, model=model)
    for ours, plain in zip(losses[True], losses[False], strict=True):
        assert ours["loss"] == pytest.approx(plain["loss"], rel=0.02)


@pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="no bitsandbytes")
def test_adapters_train_on_4_bit_weights(packed: Path, tmp_path: Path):
    model = with_llm(tmp_path / "llm", train="lora", quantize="nf4", lora={"rank": 4})
    engine = {"zero": 2, "precision": "bf16", "micro_batch": 2}
    rows = trained(packed, tmp_path, "nf4", engine=engine, model=model)
    assert len(rows) == STEPS
    assert all(0 < row["loss"] < 100 for row in rows)
    assert any(row["grad_norm"] > 0 for row in rows)


def test_an_exported_model_says_on_the_gpu_what_it_says_on_the_cpu(packed: Path, tmp_path: Path):
    config = trained_run(packed, tmp_path / "runs", model={"profile": "released"})
    folder = export(config.folder, tmp_path / "out", "all")
    video = sorted((packed / "raw").rglob("*.mp4"))[0]
    torch.backends.cuda.matmul.allow_tf32 = False
    told = {}
    for device, dtype in (
        ("cpu", torch.float32),
        ("cuda", torch.float32),
        ("cuda", torch.bfloat16),
    ):
        predictor = Predictor.load(folder, device=device, dtype=dtype)
        (choice, written) = predict(
            predictor, video, ["what moves", "what blinks"], [["a", "b"], None]
        )
        told[device, dtype] = choice.prediction
        assert 0 < written.prediction.confidence <= 1
    plain, same, half = told.values()
    # Sums in another order; bfloat16 keeps 8 bits.
    assert same.weights == pytest.approx(plain.weights, abs=1e-3)
    assert same.probabilities == pytest.approx(plain.probabilities, abs=1e-3)
    assert half.weights == pytest.approx(plain.weights, abs=0.1)
