"""Small random checkpoints in the layout of the public ones, for tests without a network.

``make_instructblip`` writes what ``Salesforce/instructblip-*`` holds, ``make_open_clip`` what the
open_clip repository of EVA01-g-14 holds, ``make_llm`` a language model's own folder. All of them
return the model they saved, for comparison.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from tests.gcg.weights.small_tokenizers import LLM, bert_tokenizer, clip_tokenizer, llm_tokenizer


@dataclass(frozen=True)
class Sizes:
    """Sizes of a small checkpoint: everything that the public ones have, a hundredth as wide.

    ``vocabulary`` is the Q-Former's and the LLM's; CLIP's is its tokenizer's, whose end mark must
    be the last word.
    """

    vision_width: int = 32
    vision_layers: int = 3
    vision_heads: int = 4
    vision_ffn: int = 80
    image_size: int = 28
    patch_size: int = 7
    joint_width: int = 48
    text_width: int = 16
    text_layers: int = 2
    text_heads: int = 2
    text_context: int = 77
    vocabulary: int = 400
    qformer_width: int = 24
    qformer_layers: int = 2
    qformer_heads: int = 2
    num_query_tokens: int = 3
    llm_width: int = 32
    llm_layers: int = 2
    llm_heads: int = 4
    llm_ffn: int = 64


def make_instructblip(
    folder: Path,
    llm: LLM = "t5",
    sizes: Sizes = Sizes(),
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    safe: bool = True,
    eva: nn.Module | None = None,
) -> InstructBlipForConditionalGeneration:
    """Save a random InstructBLIP with its tokenizers, as the Salesforce repositories lay it out.

    The LLM's tokenizer lies at the root, the Q-Former's in ``qformer_tokenizer/``. ``eva`` is a
    timm EVA model (``make_open_clip`` returns one) whose first blocks become the trunk; without it
    the trunk is unrelated. ``safe=False`` writes ``pytorch_model.bin``.
    """
    config = InstructBlipConfig(
        vision_config=vision_config(sizes).to_dict(),
        qformer_config=qformer_config(sizes).to_dict(),
        text_config=llm_config(llm, sizes).to_dict(),
        num_query_tokens=sizes.num_query_tokens,
        image_token_index=sizes.vocabulary - 1,
    )
    model = InstructBlipForConditionalGeneration(config)
    randomise(model, seed)
    model.tie_weights()
    if eva is not None:
        copy_trunk(eva, model.vision_model)
    model.to(dtype)  # pyright: ignore[reportArgumentType]
    model.save_pretrained(folder, max_shard_size=max_shard_size, safe_serialization=safe)
    llm_tokenizer(llm).save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder / "qformer_tokenizer")
    return model


def make_open_clip(
    folder: Path,
    sizes: Sizes = Sizes(),
    *,
    seed: int = 1,
    dtype: torch.dtype = torch.float32,
    file: str = "open_clip_model.safetensors",
) -> tuple[nn.Module, nn.Module]:
    """Save a random EVA-CLIP as open_clip does; return its timm EVA model and its text tower.

    The image tower has one block more than ``sizes.vision_layers``. ``file`` ending in ``.bin``
    or ``.pt`` is written by ``torch.save``.
    """
    from open_clip.transformer import TextTransformer
    from safetensors.torch import save_file
    from timm.models.eva import Eva

    eva = Eva(
        img_size=sizes.image_size,
        patch_size=sizes.patch_size,
        num_classes=sizes.joint_width,
        global_pool="token",
        embed_dim=sizes.vision_width,
        depth=sizes.vision_layers + 1,
        num_heads=sizes.vision_heads,
        mlp_ratio=sizes.vision_ffn / sizes.vision_width,
    )
    tokenizer = clip_tokenizer()
    text = TextTransformer(
        context_length=sizes.text_context,
        vocab_size=len(tokenizer),
        width=sizes.text_width,
        heads=sizes.text_heads,
        layers=sizes.text_layers,
        output_dim=sizes.joint_width,
        output_tokens=True,
    )
    randomise(eva, seed)
    randomise(text, seed + 1)
    state: dict[str, Tensor] = {"logit_scale": torch.tensor(2.6593)}
    state |= {f"visual.trunk.{name}": value for name, value in eva.state_dict().items()}
    state |= {f"text.{name}": value for name, value in text.state_dict().items()}
    state = {name: value.to(dtype).contiguous() for name, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if file.endswith(".safetensors"):
        save_file(state, folder / file)
    else:
        torch.save(state, folder / file)
    (folder / "open_clip_config.json").write_text(
        json.dumps(_open_clip_config(sizes, len(tokenizer)))
    )
    tokenizer.save_pretrained(folder)
    return eva.eval(), text.eval()


def make_llm(
    folder: Path,
    llm: LLM = "llama",
    sizes: Sizes = Sizes(),
    *,
    seed: int = 2,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "5GB",
    tied: bool | None = None,
    chat_template: str | None = None,
) -> nn.Module:
    """Save a random language model with its tokenizer, as a hub repository of its own."""
    changes = {} if tied is None else {"tie_word_embeddings": tied}
    config = llm_config(llm, sizes, **changes)
    auto = AutoModelForSeq2SeqLM if llm == "t5" else AutoModelForCausalLM
    model = auto.from_config(config)
    randomise(model, seed)
    model.tie_weights()
    model.to(dtype)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    llm_tokenizer(llm, chat_template).save_pretrained(folder)
    return model


def vision_config(sizes: Sizes) -> InstructBlipVisionConfig:
    """The trunk: the hub's defaults (gelu, eps 1e-6, q and v biases) but for the sizes."""
    return InstructBlipVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=sizes.vision_ffn,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
    )


def qformer_config(sizes: Sizes) -> InstructBlipQFormerConfig:
    """Cross-attention in every second layer, as in the public checkpoints."""
    return InstructBlipQFormerConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.qformer_width,
        num_hidden_layers=sizes.qformer_layers,
        num_attention_heads=sizes.qformer_heads,
        intermediate_size=2 * sizes.qformer_width,
        max_position_embeddings=64,
        encoder_hidden_size=sizes.vision_width,
    )


def llm_config(llm: LLM, sizes: Sizes, **changes: Any) -> PretrainedConfig:
    """A small language model of a family; special token ids are those of ``llm_tokenizer``."""
    if llm == "t5":
        tree = {
            "vocab_size": sizes.vocabulary,
            "d_model": sizes.llm_width,
            "d_kv": sizes.llm_width // sizes.llm_heads,
            "d_ff": sizes.llm_ffn,
            "num_layers": sizes.llm_layers,
            "num_decoder_layers": sizes.llm_layers,
            "num_heads": sizes.llm_heads,
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,  # as in Flan-T5
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
        }
        return T5Config(**(tree | changes))
    tree = {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.llm_width,
        "intermediate_size": sizes.llm_ffn,
        "num_hidden_layers": sizes.llm_layers,
        "num_attention_heads": sizes.llm_heads,
        "num_key_value_heads": sizes.llm_heads // 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": llm == "qwen2",
        "pad_token_id": 3,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if llm == "qwen3":
        tree["head_dim"] = sizes.llm_width // sizes.llm_heads
    family = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}[llm]
    return family(**(tree | changes))


def randomise(model: nn.Module, seed: int) -> None:
    """Every parameter off its special first value: zeros and ones would hide a swapped name."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            matrix = parameter.ndim > 1
            scale = 0.5 * parameter.shape[-1] ** -0.5 if matrix else 0.1
            is_norm = not matrix and name.endswith("weight")
            parameter.copy_(noise * scale + (1.0 if is_norm else 0.0))


def copy_trunk(eva: nn.Module, trunk: nn.Module) -> None:
    """Write a timm EVA model's embedding and first blocks into Hugging Face's tower, by hand."""
    source, target = eva.state_dict(), trunk.state_dict()
    pairs = {
        "embeddings.class_embedding": source["cls_token"],
        "embeddings.position_embedding": source["pos_embed"],
        "embeddings.patch_embedding.weight": source["patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": source["patch_embed.proj.bias"],
    }
    parts = {
        "layer_norm1": "norm1",
        "layer_norm2": "norm2",
        "self_attn.projection": "attn.proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for i in range(sum(name.endswith("self_attn.qkv.weight") for name in target)):
        ours, theirs = f"encoder.layers.{i}", f"blocks.{i}"
        query, value = source[f"{theirs}.attn.q_bias"], source[f"{theirs}.attn.v_bias"]
        pairs[f"{ours}.self_attn.qkv.weight"] = source[f"{theirs}.attn.qkv.weight"]
        pairs[f"{ours}.self_attn.qkv.bias"] = torch.cat([query, torch.zeros_like(query), value])
        for mine, other in parts.items():
            for kind in ("weight", "bias"):
                pairs[f"{ours}.{mine}.{kind}"] = source[f"{theirs}.{other}.{kind}"]
    with torch.no_grad():
        for name, value in pairs.items():
            target[name].copy_(value)


def _open_clip_config(sizes: Sizes, vocabulary: int) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": sizes.joint_width,
            "vision_cfg": {
                "image_size": sizes.image_size,
                "timm_model_name": "eva_giant_patch14_224",
                "timm_model_pretrained": False,
                "timm_pool": "token",
                "timm_proj": None,
            },
            "text_cfg": {
                "context_length": sizes.text_context,
                "vocab_size": vocabulary,
                "width": sizes.text_width,
                "heads": sizes.text_heads,
                "layers": sizes.text_layers,
            },
            "custom_text": True,
        },
        "preprocess_cfg": {},
    }
