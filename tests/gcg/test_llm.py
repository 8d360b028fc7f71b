"""Building language models: what trains, adapters by seed and name, and what cannot be had."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import GPT2Config

from gcg.errors import ModelError
from gcg.llm import (
    adapter_value,
    block_linears,
    build_llm,
    is_adapter,
    is_encoder_decoder,
    plain_name,
)
from gcg.skeleton import skeleton
from tests.gcg.llms import CONFIGS, llm_options, small_llm

LORA: dict[str, Any] = {"train": "lora", "lora": {"rank": 3, "dropout": 0.0}}
IDS = torch.tensor([[5, 9, 3, 7]])


def logits(llm: Any) -> torch.Tensor:
    kind = {"decoder_input_ids": IDS} if llm.config.is_encoder_decoder else {}
    return llm(input_ids=IDS, **kind).logits


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("train", ["frozen", "lora", "full"])
def test_what_trains(kind: str, train: str) -> None:
    llm = small_llm(kind, train=train)
    learning = {name for name, p in llm.named_parameters() if p.requires_grad}
    every = {name for name, _ in llm.named_parameters()}
    assert learning == {"frozen": set(), "full": every}.get(
        train, {name for name in every if is_adapter(name)}
    )
    assert any(map(is_adapter, every)) == (train == "lora")
    assert is_encoder_decoder(llm.config) == (kind == "t5")


@pytest.mark.parametrize("kind", CONFIGS)
def test_adapters_sit_on_every_linear_layer_but_the_head(kind: str) -> None:
    plain = small_llm(kind, train="frozen")
    adapted = small_llm(kind, **LORA)
    expected = {
        name
        for name, module in plain.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not plain.get_output_embeddings()
    }
    on = {name.split(".lora_A")[0] for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert on == expected == set(block_linears(plain))
    # Without what they add to the names, the weights are those of the LLM alone.
    kept = {plain_name(name) for name, _ in adapted.named_parameters() if not is_adapter(name)}
    assert kept == {name for name, _ in plain.named_parameters()}


@pytest.mark.parametrize("kind", ["t5", "qwen3"])
def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does(kind: str) -> None:
    plain, adapted = small_llm(kind, train="frozen"), small_llm(kind, **LORA)
    adapted.load_state_dict(
        {
            name: plain.state_dict()[plain_name(name)]
            for name in adapted.state_dict()
            if not is_adapter(name)
        },
        strict=False,
    )
    assert torch.equal(logits(adapted), logits(plain))
    logits(adapted).sum().backward()
    for name, parameter in adapted.named_parameters():
        assert (parameter.grad is not None) == is_adapter(name)
        if ".lora_B." in name:
            parameter.data -= 0.1 * parameter.grad
    assert not torch.equal(logits(adapted), logits(plain))


def test_adapters_are_drawn_from_seed_and_name() -> None:
    config, options = CONFIGS["llama"], llm_options(**LORA)
    llm = build_llm(options, config, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(99)  # the global generator has no part in it
        again = build_llm(options, config, seed=5)
    other = build_llm(options, config, seed=6)
    drawn = {name: p for name, p in llm.named_parameters() if is_adapter(name)}
    same, different = dict(again.named_parameters()), dict(other.named_parameters())
    assert all(torch.equal(p, same[name]) for name, p in drawn.items())
    firsts = [p for name, p in drawn.items() if "lora_A" in name]
    assert not any(torch.equal(p, different[name]) for name, p in drawn.items() if "lora_A" in name)
    assert len({p[0, 0].item() for p in firsts}) == len(firsts)
    assert all(not p.any() for name, p in drawn.items() if "lora_B" in name)


def test_adapters_are_spread_as_peft_spreads_them() -> None:
    value = adapter_value("x.lora_A.default.weight", (40, 500), seed=0)
    bound = 1 / math.sqrt(500)  # kaiming_uniform_ with a = √5 over 500 inputs
    assert value.abs().max() <= bound
    assert value.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert value.mean().abs() < bound / 50


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("train", ["frozen", "lora"])
def test_a_skeleton_has_the_same_parameters(kind: str, train: str) -> None:
    options = llm_options(**(LORA if train == "lora" else {}))
    whole = build_llm(options, CONFIGS[kind])
    bare = skeleton(lambda: build_llm(options, CONFIGS[kind]))
    for (name, one), (other, two) in zip(
        whole.named_parameters(), bare.named_parameters(), strict=True
    ):
        assert two.is_meta
        assert (name, one.shape, one.requires_grad) == (other, two.shape, two.requires_grad)


def test_building_leaves_the_configuration_as_it_was() -> None:
    before = CONFIGS["llama"].to_dict()
    build_llm(llm_options(attention="eager"), CONFIGS["llama"])
    assert CONFIGS["llama"].to_dict() == before


def test_attention() -> None:
    def used(kind: str, attention: str) -> str:
        return small_llm(kind, attention=attention).config._attn_implementation

    assert used("llama", "auto") == "sdpa"
    assert used("llama", "eager") == "eager"
    assert used("t5", "auto") == "eager"
    for kind in CONFIGS:
        if kind != "t5":
            torch.testing.assert_close(
                logits(small_llm(kind, attention="sdpa")),
                logits(small_llm(kind, attention="eager")),
                atol=1e-5,
                rtol=1e-4,
            )


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (
            "t5",
            {"attention": "sdpa"},
            r"llm\.attention = sdpa: .*T5.*use model\.llm\.attention=auto",
        ),
        ("llama", {**LORA, "lora": {"targets": ["query"]}}, r"targets = \['query'\]: .*q_proj"),
    ],
)
def test_what_an_llm_cannot_do_is_one_line(kind: str, options: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        small_llm(kind, **options)
    assert "\n" not in str(caught.value)


def test_an_llm_without_linear_layers_says_so() -> None:
    """GPT-2's are transposed convolutions."""
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2)
    with pytest.raises(ModelError, match=r"lora\.targets = null: .*GPT2LMHeadModel"):
        build_llm(llm_options(**LORA), config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize("options", [{"quantize": "nf4", "name": "some/llm"}, {"liger": True}])
def test_what_needs_a_gpu_says_so(options: Any) -> None:
    with pytest.raises(ModelError, match="needs a GPU"):
        small_llm("llama", **options)


def test_a_plan_needs_no_gpu() -> None:
    options = llm_options(name="some/llm", quantize="nf4", liger=True)
    llm = skeleton(lambda: build_llm(options, CONFIGS["llama"]))
    assert all(parameter.is_meta for parameter in llm.parameters())
    flash = llm_options(attention="flash_attention_2")
    skeleton(lambda: build_llm(flash, CONFIGS["llama"]))


def test_4_bit_weights_need_a_checkpoint_of_their_own() -> None:
    with pytest.raises(ModelError, match=r"set model\.llm\.name"):
        small_llm("llama", quantize="nf4")
