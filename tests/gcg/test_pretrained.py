"""A model into a folder and back: bit for bit, in every way it can be saved."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.utils._http import reset_sessions
from safetensors.torch import load_file, save_file
from torch import Tensor

from gcg.build import build_model
from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.llm import is_adapter
from gcg.model import GCGModel
from gcg.processor import GCGProcessor
from gcg.saved import Parts
from gcg.saving import plan_saving, save_pretrained
from gcg.tokens import load_tokens, pretrained_tokenizer
from tests.conftest import ROOT
from tests.gcg.weights.checkpoints import make_instructblip, make_llm, make_open_clip
from tests.gcg.weights.hub_server import cut_off, reach, serving

OPTIONS = ["a red circle", "a blue square", "it moves left"]


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small checkpoints in the public layouts."""
    root = tmp_path_factory.mktemp("public")
    eva, _ = make_open_clip(root / "clip")
    make_instructblip(root / "t5", "t5", eva=eva)
    make_llm(root / "llm", "qwen2")
    return root


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    cut_off(monkeypatch, tmp_path / "hub")
    pretrained_tokenizer.cache_clear()
    yield
    monkeypatch.undo()
    reset_sessions()


def config_of(public: Path, kind: str) -> GCGConfig:
    tree: dict[str, Any] = {"num_frames": 4, "num_moments": 2}
    blip = {
        "preset": "instructblip",
        "checkpoint": str(public / "t5"),
        "clip_checkpoint": str(public / "clip"),
    }
    kinds: dict[str, dict[str, Any]] = {
        "tiny": {},
        "tiny-full": {"llm": {"train": "full"}},
        "tiny-lora": {"llm": {"train": "lora"}},
        "uniform": {"mode": "uniform"},
        "released": {"profile": "released", "llm": {"train": "full"}},
        "plus": {"profile": "plus"},
        "own-llm-lora": {"llm": {"name": str(public / "llm"), "train": "lora"}},
        "blip": blip,
        "blip-lora": {**blip, "profile": "released", "llm": {"train": "lora"}},
        "blip-own-llm": {**blip, "llm": {"name": str(public / "llm")}},
    }
    return GCGConfig.model_validate(tree | kinds[kind])


def trained_model(config: GCGConfig) -> tuple[GCGModel, dict[str, Tensor]]:
    """A model whose trained weights are no longer what they began as, and these."""
    model = build_model(config, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    state = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    return model.eval(), state


def saved(
    config: GCGConfig,
    state: dict[str, Tensor],
    folder: Path,
    parts: Parts,
    shard_bytes: int = 400_000,
) -> Path:
    folder.mkdir(parents=True)
    save_pretrained(plan_saving(config, state, parts, seed=3), folder, shard_bytes=shard_bytes)
    return folder


def frames(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 60, 90, 3), dtype=np.uint8)


def says(model: GCGModel, processor: GCGProcessor) -> tuple[Tensor, Tensor, Tensor]:
    found = model.answer(
        processor(frames(), ["what moves", "who stays"], [OPTIONS, OPTIONS[:2]]),
        max_new_tokens=3,
    )
    assert found.option_scores is not None
    assert found.tokens is not None
    return found.weights, found.option_scores, found.tokens


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


def test_a_written_answer_comes_with_its_certainty(public: Path) -> None:
    """The geometric mean of the chosen tokens' probabilities, against a step by step count."""
    for kind in ("tiny", "own-llm-lora"):
        config = config_of(public, kind)
        model, _ = trained_model(config)
        processor = GCGProcessor(config)
        inputs = processor(frames(), ["what moves", "a longer question about what stays"])
        found = model.answer(inputs, max_new_tokens=4, certainty=True)
        assert found.option_scores is None
        assert found.tokens is not None
        assert found.certainty is not None
        (one, other) = processor.predictions(found)
        assert one.probabilities is None
        assert min(one.confidence, other.confidence) > 0
        assert max(one.confidence, other.confidence) <= 1
        alone = model.answer(processor(frames(), "what moves"), max_new_tokens=4, certainty=True)
        assert processor.predictions(alone)[0].confidence == pytest.approx(one.confidence, 1e-4)


def test_other_modes_of_one_model(public: Path) -> None:
    config = config_of(public, "tiny")
    model, _ = trained_model(config)
    processor = GCGProcessor(config)
    inputs = processor(frames(), "what moves", OPTIONS, answers=[OPTIONS[0]])
    uniform = model.in_mode("uniform").answer(inputs)
    assert uniform.selected.tolist() == [[1, 3]]
    assert uniform.weights.eq(1).all()
    oracle = model.in_mode("oracle").answer(inputs)
    assert oracle.weights.max() == 1
    assert not oracle.weights.eq(1).all()
    before = model.answer(inputs)
    assert torch.equal(before.weights, model.in_mode("grounding").answer(inputs).weights)
    with pytest.raises(ModelError, match=r"trained in mode uniform.*choose uniform or oracle"):
        trained_model(config_of(public, "uniform"))[0].in_mode("grounding")
    with pytest.raises(ValueError, match=r"mode = oracle"):
        model.in_mode("oracle").answer(processor(frames(), "what moves", OPTIONS))


def test_the_processor_says_what_does_not_fit(public: Path) -> None:
    processor = GCGProcessor(config_of(public, "tiny"))
    assert processor.frame_indices(40) == [5, 15, 25, 35]
    for given, rule in (
        ((frames(5), "q"), r"frames: 5: this model reads 4"),
        ((frames().astype(np.float32), "q"), r"must be uint8 \(T, H, W, 3\)"),
        ((torch.zeros(4, 3, 8, 8), "q"), r"pixel values must be \(T, 3, 96, 96\)"),
        (([np.zeros((8, 8), np.uint8)] * 4, "q"), r"frames\[0\]: \(8, 8\)"),
        ((frames(), []), r"questions: none given"),
        ((frames(), " "), r"question: is empty"),
        ((frames(), ["a", "b"], [["x", "y"]]), r"options: 1 lists for 2 questions"),
        ((frames(), "a", ["x"]), r"two texts or more"),
    ):
        with pytest.raises(ModelError, match=rule):
            processor(*given)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match="at least one frame"):
        processor.frame_indices(0)


def test_what_is_no_saved_model_is_one_line(public: Path, tmp_path: Path) -> None:
    config = config_of(public, "tiny-lora")
    _, state = trained_model(config)
    good = saved(config, state, tmp_path / "good", "trained", shard_bytes=10**9)

    def broken(name: str) -> Path:
        return Path(shutil.copytree(good, tmp_path / name))

    def edit(folder: Path, **changes: Any) -> Path:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    (tmp_path / "empty").mkdir()
    (broken("text") / "config.json").write_text("{")
    (broken("less") / "adapter" / "adapter_model.safetensors").unlink()
    wrong = broken("more") / "model.safetensors"
    weights = load_file(wrong)
    save_file(weights | {"generator.odd": torch.zeros(1)}, wrong)
    name = next(iter(sorted(weights)))
    short = broken("short") / "model.safetensors"
    save_file({k: v for k, v in weights.items() if k != name}, short)
    for folder, rule in (
        (tmp_path / "empty", "holds no config.json, so it is no exported model"),
        (tmp_path / "none", "no such file or folder"),
        (tmp_path / "text", "config.json: cannot be read"),
        (edit(broken("kind"), model_type="t5"), "model_type 't5': must be gcg"),
        (edit(broken("format"), format=9), "format 9, but this version reads 1"),
        (edit(broken("tree"), gcg={"num_frames": 0}), "gcg.num_frames"),
        (tmp_path / "less", "adapter_model.safetensors"),
        (tmp_path / "more", "generator.odd is no weight of the model"),
        (tmp_path / "short", f"has no {name}; the copy is incomplete"),
    ):
        with pytest.raises(ModelError, match=rule) as error:
            GCGModel.from_pretrained(folder)
        assert len(error.value.lines) == 1


def test_weights_of_another_model_are_not_saved(public: Path) -> None:
    config = config_of(public, "tiny")
    _, state = trained_model(config)
    name = sorted(state)[0]
    for wrong in (
        {k: v for k, v in state.items() if k != name},
        state | {"generator.odd": torch.zeros(1)},
        state | {name: torch.zeros(1)},
    ):
        with pytest.raises(ModelError, match=r"do not fit the model's configuration"):
            plan_saving(config, wrong)
    four_bit = config.model_copy(
        update={"llm": config.llm.model_copy(update={"quantize": "nf4", "train": "lora"})}
    )
    with pytest.raises(ModelError, match=r"export its trained parts alone"):
        plan_saving(four_bit, state, "all")


def test_pixels_are_those_of_training() -> None:
    from dataloaders.transform import preprocess
    from gcg.pixels import pixel_values

    for height, width in ((60, 90), (91, 40), (96, 96), (97, 301)):
        given = np.random.default_rng(1).integers(0, 255, (2, height, width, 3), dtype=np.uint8)
        want = preprocess(given, 96)
        assert torch.equal(pixel_values(given, 96), want)
        assert torch.equal(pixel_values(list(given), 96), want)


def test_tokens_are_those_of_training(public: Path, tmp_path: Path) -> None:
    for kind in ("own-llm-lora", "blip"):
        config = config_of(public, kind)
        _, state = trained_model(config)
        folder = saved(config, state, tmp_path / kind, "trained")
        ours, theirs = GCGProcessor.from_pretrained(folder).tokens, load_tokens(config)
        for role in ("clip", "qformer", "prompt", "answer"):
            assert getattr(ours, role).rows(OPTIONS) == getattr(theirs, role).rows(OPTIONS), role
        assert (ours.prefix_ids, ours.end_ids) == (theirs.prefix_ids, theirs.end_ids)
