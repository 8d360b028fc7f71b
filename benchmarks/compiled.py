"""Whether torch.compile pays: blocks of the trunk and of the LLM, as they are and compiled.

    python -m benchmarks.compiled --work DIR [--quick] [--json FILE]

A block of EVA-CLIP's ViT-g (257 tokens of 1,408, forward alone, as it is frozen) and one of a T5
encoder and of a Llama of width 1,024 (192 tokens, forward and the gradient of its input). Both ways
take turns; what compiling took is a column of its own.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import InstructBlipVisionConfig, LlamaConfig, T5Config
from transformers.models.instructblip.modeling_instructblip import InstructBlipEncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.t5.modeling_t5 import T5Block

from benchmarks.results import Ratio, Result, Table, interleaved, machine, main

WIDTH, TOKENS, ROWS = 1024, 192, 4
Make = Callable[[], tuple[nn.Module, Callable[[nn.Module], Tensor], Tensor | None]]


def trunk() -> tuple[nn.Module, Callable[[nn.Module], Tensor], None]:
    """A ViT-g block over two frames."""
    config = InstructBlipVisionConfig()
    config._attn_implementation = "sdpa"
    # Its annotation names the whole model's configuration; it reads the vision part's fields.
    block = InstructBlipEncoderLayer(config)  # pyright: ignore[reportArgumentType]
    block = block.eval().requires_grad_(False)
    frames = torch.randn(2, 257, config.hidden_size)
    return block, lambda layer: layer(frames, None)[0], None


def t5() -> tuple[nn.Module, Callable[[nn.Module], Tensor], Tensor]:
    """A T5 encoder block over the rows of a micro-batch."""
    config = T5Config(d_model=WIDTH, d_ff=2816, num_heads=16, feed_forward_proj="gated-gelu")
    block = T5Block(config, has_relative_attention_bias=True).eval().requires_grad_(False)
    words = torch.randn(ROWS, TOKENS, WIDTH, requires_grad=True)
    positions = torch.arange(TOKENS)
    return block, lambda layer: layer(words, cache_position=positions)[0], words


def llama() -> tuple[nn.Module, Callable[[nn.Module], Tensor], Tensor]:
    """A Llama block over the rows of a micro-batch."""
    config = LlamaConfig(hidden_size=WIDTH, intermediate_size=2816, num_attention_heads=16)
    config._attn_implementation = "sdpa"
    block = LlamaDecoderLayer(config, 0).eval().requires_grad_(False)
    words = torch.randn(ROWS, TOKENS, WIDTH, requires_grad=True)
    positions = torch.arange(TOKENS)[None]
    turned = LlamaRotaryEmbedding(config)(words, positions)

    def run(layer: nn.Module) -> Tensor:
        out: Any = layer(words, position_embeddings=turned, position_ids=positions)
        return out if isinstance(out, Tensor) else out[0]

    return block, run, words


BLOCKS: dict[str, Make] = {
    "ViT-g block, forward": trunk,
    "T5 encoder block, forward + backward": t5,
    "Llama block, forward + backward": llama,
}


def measure(work: Path, quick: bool) -> Result:
    """Blocks of the model as they are and compiled."""
    rows, data = [], {}
    for name, make in BLOCKS.items():
        block, run, wanted = make()
        compiled = torch.compile(block)
        ways = {
            "as it is": lambda block=block, run=run, wanted=wanted: _seconds(run, block, wanted),
            "compiled": lambda block=compiled, run=run, wanted=wanted: _seconds(run, block, wanted),
        }
        first = ways["compiled"]()
        found = interleaved(ways, 3 if quick else 15, warm=2)
        ratio = Ratio.of(found["compiled"], found["as it is"])
        plain = 1000 * statistics.median(found["as it is"])
        rows.append((name, f"{plain:.1f} ms", str(ratio), f"{first:.0f} s"))
        data[name] = {**found, "first call": first}
        sys.stderr.write(f"{name}: {ratio}\n")
    columns = ("block", "as it is", "compiled / as it is", "first call, compiling")
    notes = (f"{machine()}; fp32, {torch.get_num_threads()} threads",)
    return Result(
        "torch.compile", (), (Table("Time of a block", columns, tuple(rows)),), (), notes, data
    )


def _seconds(run: Callable[[nn.Module], Tensor], block: nn.Module, wanted: Tensor | None) -> float:
    began = time.perf_counter()
    out = run(block)
    if wanted is not None:
        torch.autograd.grad(out.sum(), wanted)
    return time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main(measure))
