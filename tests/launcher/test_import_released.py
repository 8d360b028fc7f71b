"""Checkpoints in the layout of the authors' released code, as models of ours."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from gcg import GCGConfig, GCGModel
from gcg.presets import resolve_preset
from launcher.cli import main
from tests.benchmarks.released import module_weights
from tests.gcg.weights.checkpoints import make_instructblip, make_open_clip
from tests.launcher.conftest import run_tree

FRAMES, MOMENTS, JOINT, WIDTH = 8, 2, 128, 32


def checkpoint(path: Path, **sizes: int) -> dict[str, Tensor]:
    """Written as training scripts do: wrapped, under ``module.`` and a name of the module."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    asked = {"frames": FRAMES, "moments": MOMENTS, "joint": JOINT, "inner": WIDTH} | sizes
    state = {name: value.float() for name, value in module_weights(draw, **asked)}
    other = {"module.t5_proj.weight": torch.zeros(2, 2)}
    torch.save({"model": {f"module.localizer.{n}": v for n, v in state.items()} | other}, path)
    return state


def run_file(folder: Path, **model: Any) -> Path:
    tree = run_tree(folder, folder, model={"profile": "released", "llm": {}, **model})
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_the_grounding_module_is_the_file_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = checkpoint(tmp_path / "best.pth")
    out = tmp_path / "out"
    run = run_file(tmp_path)
    assert main(["import-released", str(tmp_path / "best.pth"), str(run), "--to", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{len(state)} tensors of best.pth, the public Q-Former" in said
    assert "1 not read, such as t5_proj.weight" in said
    model = GCGModel.from_pretrained(out)
    for ours, theirs in (
        ("generator.embed.weight", "embedding.1.weight"),
        ("generator.kinds.weight", "modality_embedding.modality_embedding.weight"),
        ("generator.blocks.1.out.bias", "encoder.layer.1.attention.out_lin.bias"),
        ("generator.pool.2.weight", "satt_pool_frame.2.weight"),
        ("generator.centers.bias", "logit_gauss_c.1.bias"),
        ("contrast.inner.weight", "proj_head.1.weight"),
        ("contrast.outer.bias", "proj_head.3.bias"),
    ):
        assert torch.equal(model.get_parameter(ours), state[theirs]), ours
    assert main(["import-released", str(tmp_path / "best.pth"), str(run), "--to", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_with_a_q_former_by_its_public_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eva, _ = make_open_clip(tmp_path / "clip")
    make_instructblip(tmp_path / "t5", "t5", eva=eva)
    model = {
        "preset": "instructblip",
        "checkpoint": str(tmp_path / "t5"),
        "clip_checkpoint": str(tmp_path / "clip"),
    }
    joint = resolve_preset(GCGConfig.model_validate(model)).joint_width
    run, path = run_file(tmp_path, **model), tmp_path / "best.pth"
    checkpoint(path, joint=joint, inner=joint // 4)
    state = torch.load(path)["model"]
    (file,) = (tmp_path / "t5").glob("*.safetensors")
    public = load_file(file)
    moved = {
        name: value.float() + 1
        for name, value in public.items()
        if name.startswith(("qformer.", "query_tokens", "language_projection."))
    }
    torch.save({"model": state | moved}, path)
    command = ["import-released", str(path), str(run), "--to", str(tmp_path / "out")]
    assert main(command) == 0
    assert "its own Q-Former" in capsys.readouterr().out
    found = GCGModel.from_pretrained(tmp_path / "out")
    assert torch.equal(found.reader.query_tokens, moved["query_tokens"])
    assert torch.equal(found.reader.projection.bias, moved["language_projection.bias"])
    del moved["language_projection.bias"]
    torch.save({"model": state | moved}, path)
    shutil.rmtree(tmp_path / "out")
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "has no language_projection.bias" in line


def test_what_does_not_fit_is_said_setting_by_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--to", str(tmp_path / "out")]
    checkpoint(tmp_path / "a.pth", frames=16, moments=4, joint=64)
    (tmp_path / "junk.pth").write_bytes(b"junk")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    good = checkpoint(tmp_path / "good.pth")
    part = {n: v for n, v in good.items() if "pool" not in n}
    torch.save(part, tmp_path / "part.pth")
    torch.save({n: v for n, v in good.items() if "embedding.1" not in n}, tmp_path / "less.pth")
    flat = "position_v.position_embeddings.weight"
    torch.save({**good, flat: torch.zeros(4)}, tmp_path / "flat.pth")
    (wide,) = (n for n in good if n.endswith("layer.0.ffn.lin1.weight"))
    torch.save({**good, wide: good[wide][:-1]}, tmp_path / "wide.pth")
    run, plain = run_file(tmp_path), ["--set", "model.profile=paper"]
    cases: list[tuple[str, list[str], list[str]]] = [
        ("a.pth", [], ["model.num_frames = 8: the checkpoint's grounding module has 16",
                       "model.num_moments = 2: the checkpoint's grounding module has 4",
                       "its joint space has width 128, the checkpoint's grounding"]),
        ("good.pth", plain, ["model.profile = paper: must be released"]),
        ("good.pth", ["--set", "model.llm.train=full"], ["model.llm.train = full"]),
        ("part.pth", [], ["for generator.pool.0.bias"]),
        ("less.pth", [], ["generator.embed.weight: is not in the checkpoint"]),
        ("flat.pth", [], ["generator.positions.weight: has the shape (4,), but must be a matrix"]),
        ("wide.pth", [], ["generator.blocks.0.ffn_in.weight has the shape"]),
        ("junk.pth", [], ["cannot be read as a PyTorch state dict"]),
        ("other.pth", [], ["holds no grounding module of the released code"]),
        ("none.pth", [], ["no such file"]),
    ]  # fmt: skip
    for name, more, rules in cases:
        command = ["import-released", str(tmp_path / name), str(run), *out, *more]
        assert main(command) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == len(rules), lines
        for line, rule in zip(lines, rules, strict=True):
            assert rule in line
        assert not (tmp_path / "out").exists()
