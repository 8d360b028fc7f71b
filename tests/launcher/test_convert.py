"""`gcg convert`: one folder that gives the same model as the checkpoints it was made of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer

from gcg.build import build_model
from gcg.config import GCGConfig
from gcg.presets import resolve_preset
from gcg.tokens import load_tokens
from gcg.weights import weight_map
from gcg.weights.tensors import InMemory, Zeros, whole
from gcg.weights.writer import PART, write_shards
from launcher.cli import main
from launcher.convert import convert, plan_conversion
from launcher.errors import UserError
from tests.gcg.saved_models import no_network
from tests.gcg.weights.checkpoints import make_instructblip, make_llm, make_open_clip

__all__ = ["no_network"]  # the fixture: converted folders must do without

TEXTS = ["What did the boy do after he opened the present?", "Résumé — two  spaces"]


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small checkpoints in the public layouts."""
    root = tmp_path_factory.mktemp("public")
    eva, _ = make_open_clip(root / "clip")
    for kind in ("t5", "llama"):
        make_instructblip(root / kind, kind, eva=eva)
    make_llm(root / "llm", "qwen2", dtype=torch.bfloat16)
    return root


def config(public: Path, kind: str, **changes: Any) -> GCGConfig:
    tree = {
        "preset": "instructblip",
        "checkpoint": str(public / kind),
        "clip_checkpoint": str(public / "clip"),
        "num_frames": 4,
        "num_moments": 2,
    }
    return GCGConfig.model_validate(tree | changes)


def converted_config(out: Path, **changes: Any) -> GCGConfig:
    tree = {"preset": "instructblip", "checkpoint": str(out), "num_frames": 4, "num_moments": 2}
    return GCGConfig.model_validate(tree | changes)


def run_file(folder: Path, model: GCGConfig) -> Path:
    tree = {
        "run": {"name": "x", "storage": str(folder)},
        "data": {"train": str(folder / "train")},
        "optim": {"steps": 1},
        "model": json.loads(model.model_dump_json()),
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def moved(out: Path, tmp_path: Path) -> Path:
    """To a place where nothing of what it was made from can be found beside it."""
    return Path(shutil.move(out, tmp_path / "elsewhere"))


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_the_folder_alone_gives_the_same_model(public: Path, kind: str, tmp_path: Path) -> None:
    before = config(public, kind)
    files = convert(plan_conversion(before, tmp_path / "out"), tmp_path / "out", shard_bytes=50_000)
    assert len(files) > 3
    # A larger tensor has a file of its own; headers are a few KB.
    assert all(file.stat().st_size < 70_000 for file in files)
    after = converted_config(moved(tmp_path / "out", tmp_path))
    old, new = (build_model(c, seed=3).state_dict() for c in (before, after))
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert_same_tokens(before, after)


def assert_same_tokens(before: GCGConfig, after: GCGConfig) -> None:
    ours, theirs = load_tokens(after), load_tokens(before)
    for role in ("clip", "qformer", "prompt", "answer"):
        one, other = getattr(ours, role), getattr(theirs, role)
        assert one.encode(TEXTS) == other.encode(TEXTS), role
        assert (one.prefix, one.suffix, one.pad_id) == (other.prefix, other.suffix, other.pad_id)
    assert (ours.prefix_ids, ours.end_ids) == (theirs.prefix_ids, theirs.end_ids)


def test_with_another_llm_inside(public: Path, tmp_path: Path) -> None:
    """The folder carries it; no projection, which starts fresh; its name still means it."""
    name = str(public / "llm")
    before = config(public, "t5", llm={"name": name})
    convert(plan_conversion(before, tmp_path / "out"), tmp_path / "out")
    out = moved(tmp_path / "out", tmp_path)
    for after in (converted_config(out), converted_config(out, llm={"name": name})):
        assert not resolve_preset(after).own_llm
        old, new = (build_model(c, seed=3).state_dict() for c in (before, after))
        assert old.keys() == new.keys()
        assert all(torch.equal(old[key], new[key]) for key in old)
        assert_same_tokens(before, after)
    assert not any(key.startswith("reader.projection") for key in weight_map(converted_config(out)))


def test_another_llm_in_place_of_the_converted_one(public: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(plan_conversion(config(public, "t5"), out), out)
    weights = weight_map(converted_config(out, llm={"name": str(public / "llm")}))
    assert "answerer.llm.model.norm.weight" in weights
    assert not any(key.startswith(("reader.projection", "answerer.llm.shared")) for key in weights)


@pytest.mark.parametrize("kind", ["t5", "clip", "bert-uncased"])
def test_real_tokenizers_stay_the_same_when_saved(kind: str, shared: Path, tmp_path: Path) -> None:
    """At real vocabulary sizes, with all their rules for spaces, case and accents."""
    before = AutoTokenizer.from_pretrained(shared / "tokenizers" / kind)
    before.save_pretrained(tmp_path)
    after = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*TEXTS, "Why does it START?  (a) 12.5% 日本語 \n new line", "<image> </s> [SEP]"]
    for marks in (True, False):
        one, other = (t(texts, add_special_tokens=marks)["input_ids"] for t in (before, after))
        assert one == other
    assert before.decode(one[0]) == after.decode(one[0])


def test_the_command(public: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_file(tmp_path, config(public, "llama"))
    out = tmp_path / "out"
    assert main(["convert", str(run), str(out), "--dtype", "bf16"]) == 0
    assert "name it as model.checkpoint" in capsys.readouterr().out
    (file,) = out.glob("*.safetensors")
    with safe_open(file, "pt") as stored:  # the library itself can read it
        found = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    expected = weight_map(config(public, "llama"))
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, whole(expected[key]).to(torch.bfloat16)), key
    # It is not written over.
    assert main(["convert", str(run), str(out)]) == 2
    assert f"OUT = {out}: is there already" in capsys.readouterr().err
    # And the converted folder can itself be converted.
    again = ["convert", str(run), str(tmp_path / "again"), "--set", f"model.checkpoint={out}"]
    assert main(again) == 0
    assert weight_map(converted_config(tmp_path / "again")).keys() == expected.keys()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"preset": "tiny", "checkpoint": None}, "nothing to convert"),
        ({"checkpoint": "some/model"}, "model.checkpoint = some/model"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(
    public: Path,
    changes: dict[str, Any],
    part: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = run_file(tmp_path, config(public, "t5", **changes))
    assert main(["convert", str(run), str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert part in line
    assert not (tmp_path / "out").exists()


def test_too_little_room_is_said_before(
    public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(UserError, match=r"needs 0\.0 GB, .* has 0\.0 GB; use another disk"):
        plan_conversion(config(public, "t5"), tmp_path / "out")


def test_a_stopped_attempt_does_not_look_finished(public: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = plan_conversion(config(public, "t5"), out)

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(found, out, on_bytes=stop)
    assert not out.exists()
    convert(found, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_damaged_description_is_one_line(public: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(plan_conversion(config(public, "t5"), out), out)
    path = out / "gcg_model.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="format 99, but this version reads 1"):
        resolve_preset(converted_config(out))


def test_writing_needs_memory_for_a_part_only(tmp_path: Path) -> None:
    """A tensor of 400 MB goes through in parts of 64 MiB."""
    process = psutil.Process()
    before, peak = process.memory_info().rss, 0

    def look(count: int) -> None:
        nonlocal peak
        peak = max(peak, process.memory_info().rss)

    weights = {"large": Zeros((100, 1_000_000), torch.float32)}
    (file,) = write_shards(weights, tmp_path, shard_bytes=1000, on_bytes=look)
    assert file.stat().st_size > 400_000_000
    assert peak - before < 3 * 4 * PART, f"{(peak - before) >> 20} MiB"


def test_every_kind_of_number_is_written(tmp_path: Path) -> None:
    values: dict[str, Tensor] = {
        "byte": torch.tensor([1, 2, 3], dtype=torch.uint8),  # odd sizes leave no gaps
        "half": torch.randn(3).half(),
        "single": torch.randn(2, 2),
        "scalar": torch.tensor(3, dtype=torch.int64),
    }
    (file,) = write_shards(
        {name: InMemory(value) for name, value in values.items()}, tmp_path, dtype=torch.bfloat16
    )
    with safe_open(file, "pt") as stored:
        for name, value in values.items():
            expected = value.bfloat16() if value.is_floating_point() else value
            assert torch.equal(stored.get_tensor(name), expected), name
