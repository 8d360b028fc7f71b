"""Small random checkpoints in the layout of the public ones, for tests without a network.

``make_instructblip`` writes what ``Salesforce/instructblip-*`` holds, ``make_open_clip`` what the
open_clip repository of EVA01-g-14 holds, ``make_llm`` a language model's own folder. All of them
return the model they saved, for comparison.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
)

from tests.gcg.weights.small_configs import (
    SMALL,
    Sizes,
    llm_config,
    open_clip_config,
    qformer_config,
    vision_config,
)
from tests.gcg.weights.small_tokenizers import LLM, bert_tokenizer, clip_tokenizer, llm_tokenizer


def make_instructblip(
    folder: Path,
    llm: LLM = "t5",
    sizes: Sizes = SMALL,
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
    sizes: Sizes = SMALL,
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
        json.dumps(open_clip_config(sizes, len(tokenizer)))
    )
    tokenizer.save_pretrained(folder)
    return eva.eval(), text.eval()


def make_llm(
    folder: Path,
    llm: LLM = "llama",
    sizes: Sizes = SMALL,
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
