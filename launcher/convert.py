"""`gcg convert`: all of a model's public weights in one folder, under the model's own names.

Workers then need neither a hub nor four checkpoints: ``model.checkpoint: OUT`` is all. The weights
are copied a part at a time; the folder appears under its name when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gcg.config import GCGConfig
from gcg.presets import Preset, resolve_preset
from gcg.saved import write_parts
from gcg.tokens import load_tokenizers
from gcg.weights import Weight, weight_map
from gcg.weights.writer import SHARD_BYTES, stored_bytes, write_shards
from launcher.errors import UserError
from launcher.storage.new_folder import check_new, check_room, new_folder

DTYPES = {"keep": None, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Conversion:
    """What there is to write: weights by the model's names, and what describes them."""

    config: GCGConfig
    preset: Preset
    weights: dict[str, Weight]
    dtype: torch.dtype | None

    @property
    def num_bytes(self) -> int:
        """Of all weights, once written."""
        return sum(stored_bytes(weight, self.dtype) for weight in self.weights.values())


def plan_conversion(config: GCGConfig, out: Path, dtype: str = "keep") -> Conversion:
    """Find everything and check what can be checked; writes nothing.

    Raises:
        UserError: ``out`` is taken, there is too little room, or nothing to convert.
        ModelError: a checkpoint is not to be had, or is of another model.
    """
    config = config.reading_video()
    if config.preset == "tiny":
        raise UserError(
            "model.preset = tiny: ships with the package, there is nothing to convert; use "
            "instructblip"
        )
    check_new(f"OUT = {out}", out)
    weights = weight_map(config)
    found = Conversion(config, resolve_preset(config), weights, DTYPES[dtype])
    check_room(f"OUT = {out}", out, found.num_bytes)
    return found


def convert(
    conversion: Conversion,
    out: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    on_bytes: Callable[[int], object] = lambda count: None,
) -> list[Path]:
    """Write the folder; return its weight files."""
    with new_folder(f"OUT = {out}", out) as partial:
        files = write_shards(
            conversion.weights,
            partial,
            dtype=conversion.dtype,
            shard_bytes=shard_bytes,
            on_bytes=on_bytes,
        )
        for folder, tokenizer in load_tokenizers(conversion.config).items():
            tokenizer.save_pretrained(partial / folder)
        write_parts(conversion.config, conversion.preset, partial)
    return [out / file.name for file in files]
