"""Sizes of well-known checkpoints, so that planning them needs no network.

They are what the repositories' ``config.json`` say (read on the hub: the fields that differ from
the defaults of transformers' configuration classes). Where a checkpoint's own folder is at hand,
its file is read instead: see ``gcg.part_configs``.
"""

from __future__ import annotations

from typing import Any

Sizes = dict[str, Any]

# The image encoder and the Q-Former of all four are the defaults of InstructBlipVisionConfig and
# InstructBlipQFormerConfig, but for one word more ([DEC]) in the Q-Former's vocabulary.
QFORMER_VOCABULARY = 30523
NUM_QUERY_TOKENS = 32


def _t5(width: int, ffn: int, layers: int, heads: int) -> Sizes:
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": 32128,
        "d_model": width,
        "d_ff": ffn,
        "d_kv": 64,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def _decoder(
    kind: str,
    width: int,
    ffn: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    *,
    tied: bool = False,
    eps: float = 1e-6,
    theta: float = 10000.0,
    context: int = 2048,
    marks: tuple[int, int] = (1, 2),
    **more: Any,
) -> Sizes:
    """``marks``: ids of the tokens that begin and end a text."""
    architecture = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[kind]
    return {
        "model_type": kind,
        "architectures": [f"{architecture}ForCausalLM"],
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "rms_norm_eps": eps,
        "rope_theta": theta,
        "max_position_embeddings": context,
        "bos_token_id": marks[0],
        "eos_token_id": marks[1],
        **more,
    }


def _vicuna(size: str, version: str) -> Sizes:
    sizes = {"7b": (4096, 11008, 32, 32, 32), "13b": (5120, 13824, 40, 40, 40)}[size]
    newer = version == "v1.5"  # made from Llama 2
    context, eps = (4096, 1e-5) if newer else (2048, 1e-6)
    return _decoder("llama", *sizes, 32000, eps=eps, context=context, pad_token_id=0)


def _llama3(size: str, instruct: bool) -> Sizes:
    sizes = {
        "1B": (2048, 8192, 16, 32, 8),
        "3B": (3072, 8192, 28, 24, 8),
        "8B": (4096, 14336, 32, 32, 8),
        "70B": (8192, 28672, 80, 64, 8),
    }[size]
    small = size in ("1B", "3B")
    return _decoder(
        "llama",
        *sizes,
        128256,
        tied=small,
        eps=1e-5,
        theta=500000.0,
        context=131072,
        marks=(128000, 128009 if instruct else 128001),
        head_dim=64 if size == "1B" else 128,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 32.0 if small else 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )


def _qwen25(size: str, instruct: bool) -> Sizes:
    sizes = {
        "0.5B": (896, 4864, 24, 14, 2, 151936),
        "1.5B": (1536, 8960, 28, 12, 2, 151936),
        "3B": (2048, 11008, 36, 16, 2, 151936),
        "7B": (3584, 18944, 28, 28, 4, 152064),
        "14B": (5120, 13824, 48, 40, 8, 152064),
        "32B": (5120, 27648, 64, 40, 8, 152064),
        "72B": (8192, 29568, 80, 64, 8, 152064),
    }[size]
    large = size in ("14B", "32B", "72B")
    return _decoder(
        "qwen2",
        *sizes,
        tied=size in ("0.5B", "1.5B", "3B"),
        eps=1e-5 if large and not instruct else 1e-6,
        theta=1000000.0,
        context=131072 if not instruct and size not in ("0.5B", "3B") else 32768,
        marks=(151643, 151645 if instruct else 151643),
    )


def _qwen3(size: str, base: bool) -> Sizes:
    sizes = {
        "0.6B": (1024, 3072, 28, 16, 8),
        "1.7B": (2048, 6144, 28, 16, 8),
        "4B": (2560, 9728, 36, 32, 8),
        "8B": (4096, 12288, 36, 32, 8),
        "14B": (5120, 17408, 40, 40, 8),
        "32B": (5120, 25600, 64, 64, 8),
    }[size]
    return _decoder(
        "qwen3",
        *sizes,
        151936,
        tied=size in ("0.6B", "1.7B", "4B"),
        theta=1000000.0,
        context=32768 if base else 40960,
        marks=(151643, 151643 if base else 151645),
        head_dim=128,
    )


def _smollm2(size: str, instruct: bool) -> Sizes:
    sizes = {
        "135M": (576, 1536, 30, 9, 3),
        "360M": (960, 2560, 32, 15, 5),
        "1.7B": (2048, 8192, 24, 32, 32),
    }[size]
    return _decoder(
        "llama",
        *sizes,
        49152,
        tied=True,
        eps=1e-5,
        theta=130000.0 if size == "1.7B" else 100000.0,
        context=8192,
        marks=(1, 2) if instruct else (0, 0),
        **({"pad_token_id": 2} if instruct else {}),
    )


def _llms() -> dict[str, Sizes]:
    found = {
        "google/flan-t5-small": _t5(512, 1024, 8, 6),
        "google/flan-t5-base": _t5(768, 2048, 12, 12),
        "google/flan-t5-large": _t5(1024, 2816, 24, 16),
        "google/flan-t5-xl": _t5(2048, 5120, 24, 32),
        "google/flan-t5-xxl": _t5(4096, 10240, 24, 64),
    }
    for size in ("7b", "13b"):
        for version in ("v1.1", "v1.3", "v1.5"):
            found[f"lmsys/vicuna-{size}-{version}"] = _vicuna(size, version)
    for instruct, ending in ((False, ""), (True, "-Instruct")):
        for version, sizes in (("3.1", ("8B", "70B")), ("3.2", ("1B", "3B"))):
            for size in sizes:
                found[f"meta-llama/Llama-{version}-{size}{ending}"] = _llama3(size, instruct)
        for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B"):
            found[f"Qwen/Qwen2.5-{size}{ending}"] = _qwen25(size, instruct)
        for size in ("135M", "360M", "1.7B"):
            found[f"HuggingFaceTB/SmolLM2-{size}{ending}"] = _smollm2(size, instruct)
    found["meta-llama/Llama-3.3-70B-Instruct"] = _llama3("70B", True)
    for size in ("0.6B", "1.7B", "4B", "8B", "14B", "32B"):
        found[f"Qwen/Qwen3-{size}"] = _qwen3(size, base=False)
        if size != "32B":  # no base model of that size was published
            found[f"Qwen/Qwen3-{size}-Base"] = _qwen3(size, base=True)
    return found


def _instructblip_vicuna(size: str) -> Sizes:
    # One word more, [PAD]. A later revision pads the vocabulary to 32,064 rows, which nothing uses.
    return _vicuna(size, "v1.1") | {"vocab_size": 32001, "pad_token_id": 32000}


LLMS = _llms()

# Which language model an InstructBLIP checkpoint holds.
INSTRUCTBLIP: dict[str, Sizes] = {
    "Salesforce/instructblip-flan-t5-xl": LLMS["google/flan-t5-xl"],
    "Salesforce/instructblip-flan-t5-xxl": LLMS["google/flan-t5-xxl"],
    "Salesforce/instructblip-vicuna-7b": _instructblip_vicuna("7b"),
    "Salesforce/instructblip-vicuna-13b": _instructblip_vicuna("13b"),
}

# open_clip's EVA01-g-14: its model_configs/EVA01-g-14.json, whose GELU is the exact one.
EVA01_G_14: Sizes = {
    "embed_dim": 1024,
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 768,
        "heads": 12,
        "layers": 12,
    },
}
