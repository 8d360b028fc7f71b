"""A model into a folder and back: bit for bit, in every way it can be saved."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gcg.errors import ModelError
from gcg.llm import is_adapter
from gcg.model import GCGModel
from gcg.processor import GCGProcessor
from gcg.saved import Parts
from gcg.saving import plan_saving, save_pretrained
from gcg.tokens import pretrained_tokenizer
from tests.conftest import ROOT
from tests.gcg.weights.hub_server import cut_off, reach, serving

from .saved_models import OPTIONS, config_of, no_network, public, saved, says, trained_model

__all__ = ["no_network", "public"]  # the fixtures

CASES = [
    ("tiny", "all"), ("tiny-full", "trained"), ("tiny-lora", "trained"), ("uniform", "trained"),
    ("released", "all"), ("plus", "trained"), ("own-llm-lora", "trained"), ("own-llm-lora", "all"),
    ("blip", "trained"), ("blip-lora", "trained"), ("blip-lora", "all"), ("blip-own-llm", "all"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "parts"), CASES)
def test_a_folder_gives_the_same_model(
    public: Path, kind: str, parts: Parts, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(public, tmp_path / "gone")) if parts == "all" else public
    model, state = trained_model(config_of(place, kind))
    folder = saved(config_of(place, kind), state, tmp_path / "out", parts)
    folder = Path(shutil.move(folder, tmp_path / "elsewhere"))
    ours = says(model, GCGProcessor(config_of(place, kind)))
    if parts == "all":  # nothing else is read: it may even be gone
        shutil.rmtree(place)
        pretrained_tokenizer.cache_clear()
    again = GCGModel.from_pretrained(folder)
    old, new = model.state_dict(), again.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    theirs = says(again, GCGProcessor.from_pretrained(folder))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", ["own-llm-lora", "blip", "blip-own-llm"])
def test_a_loaded_model_can_be_saved_again(public: Path, kind: str, tmp_path: Path) -> None:
    """Whole, as it is in memory; the folder it came from may go."""
    place = Path(shutil.copytree(public, tmp_path / "gone"))
    model, state = trained_model(config_of(place, kind))
    folder = saved(config_of(place, kind), state, tmp_path / "out", "trained")
    loaded = GCGModel.from_pretrained(folder)
    ours = says(loaded, GCGProcessor.from_pretrained(folder))
    loaded.save_pretrained(tmp_path / "again")
    with pytest.raises(ModelError, match="is there already"):
        loaded.save_pretrained(tmp_path / "again")
    for each in (place, folder):
        shutil.rmtree(each)
    pretrained_tokenizer.cache_clear()
    again = GCGModel.from_pretrained(tmp_path / "again")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    theirs = says(again, GCGProcessor.from_pretrained(tmp_path / "again"))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_trained_parts_alone_hold_nothing_public(public: Path, tmp_path: Path) -> None:
    config = config_of(public, "blip")
    _, state = trained_model(config)
    folder = saved(config, state, tmp_path / "out", "trained")
    names = {n for file in folder.glob("*.safetensors") for n in load_file(file)}
    assert names == set(state)
    assert {n.split(".")[0] for n in names} == {"generator", "reader"}


def test_the_adapter_loads_with_peft_on_the_plain_language_model(
    public: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    config = config_of(public, "own-llm-lora")
    model, state = trained_model(config)
    folder = saved(config, state, tmp_path / "out", "trained")
    plain = AutoModelForCausalLM.from_pretrained(public / "llm", dtype=torch.float32)
    ids = torch.arange(12)[None] % 40
    with torch.no_grad():
        bare = plain(ids).logits
        adapted = PeftModel.from_pretrained(plain, str(folder / "adapter")).eval()
        got, want = adapted(ids).logits, model.answerer.llm(ids).logits
    assert torch.equal(got, want)
    assert not torch.allclose(got, bare)


@pytest.mark.parametrize("kind", ["blip-lora", "own-llm-lora"])
def test_merged_is_a_plain_model_that_says_nearly_the_same(
    public: Path, kind: str, tmp_path: Path
) -> None:
    config = config_of(public, kind)
    model, state = trained_model(config)
    folder = saved(config, state, tmp_path / "out", "merged")
    again = GCGModel.from_pretrained(folder)
    assert not any(is_adapter(name) for name, _ in again.named_parameters())
    assert not (folder / "adapter").exists()
    processor = GCGProcessor.from_pretrained(folder)
    (weights, scores, _), (mine, own, _) = says(model, processor), says(again, processor)
    assert torch.equal(weights, mine)
    # W x + s B A x against (W + s B A) x in float32: sums in another order, scores of 10 to 100.
    torch.testing.assert_close(scores, own, atol=1e-3, rtol=1e-4)
    for layer in model.answerer.llm.modules():
        if hasattr(layer, "merge"):
            layer.merge()
    (_, merged, _) = says(model, processor)
    torch.testing.assert_close(merged, own, atol=2e-5, rtol=1e-5)


def test_half_precision_in_the_file(public: Path, tmp_path: Path) -> None:
    config = config_of(public, "tiny-full")
    _, state = trained_model(config)
    (tmp_path / "out").mkdir()
    saving = plan_saving(config, state, "trained", dtype=torch.bfloat16)
    save_pretrained(saving, tmp_path / "out")
    again = GCGModel.from_pretrained(tmp_path / "out")
    for name, value in state.items():
        assert torch.equal(again.get_parameter(name), value.bfloat16().float()), name


def test_frozen_parts_that_have_moved(public: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(public, tmp_path / "old"))
    config = config_of(old, "blip-own-llm")
    model, state = trained_model(config)
    folder = saved(config, state, tmp_path / "out", "trained")
    new = Path(shutil.move(old, tmp_path / "new"))
    with pytest.raises(ModelError, match=r"model\.checkpoint = .*old/t5: no such file or folder"):
        GCGModel.from_pretrained(folder)
    again = GCGModel.from_pretrained(
        folder, checkpoint=str(new / "t5"), clip_checkpoint=str(new / "clip"), llm=str(new / "llm")
    )
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_by_its_name_on_the_hub(
    public: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is needed is fetched, the adapter's folder among it; then no network is asked."""
    config = config_of(public, "tiny-lora")
    model, state = trained_model(config)
    saved(config, state, tmp_path / "hub" / "someone" / "gcg", "trained", shard_bytes=10**9)
    (tmp_path / "hub" / "someone" / "gcg" / "moment.mp4").write_bytes(b"video")
    with serving(tmp_path / "hub") as hub:
        reach(hub, monkeypatch, tmp_path / "cache")
        again = GCGModel.from_pretrained("someone/gcg")
        sent = set(hub.sent)
    cut_off(monkeypatch)
    assert "someone/gcg/adapter/adapter_model.safetensors" in sent
    assert "someone/gcg/moment.mp4" not in sent
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    GCGModel.from_pretrained("someone/gcg")
    assert GCGProcessor.from_pretrained("someone/gcg").num_frames == 4
    with pytest.raises(ModelError, match=r"someone/other"):
        GCGModel.from_pretrained("someone/other")


def test_without_ray_deepspeed_or_dali(public: Path, tmp_path: Path) -> None:
    """Nor anything of ours but `gcg`: the folder is all that is taken along."""
    config = config_of(public, "tiny-lora")
    _, state = trained_model(config)
    folder = saved(config, state, tmp_path / "out", "all")
    code = f"""
import sys
for name in ("ray", "deepspeed", "nvidia.dali", "launcher", "dataloaders", "av", "webdataset"):
    sys.modules[name] = None
import torch
from gcg import GCGModel, GCGProcessor
model, processor = (kind.from_pretrained({str(folder)!r}) for kind in (GCGModel, GCGProcessor))
frames = torch.randint(0, 255, (4, 60, 90, 3), dtype=torch.uint8)
found = model.answer(processor(frames, "what moves", {OPTIONS!r}))
print(processor.predictions(found, [{OPTIONS!r}], duration=4.0)[0])
"""
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.startswith("Prediction(answer='")
