"""LoRA adapters as peft keeps them: a folder that loads on the plain language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.weights.files import read_checkpoint
from gcg.weights.tensors import Weight

# Ours: answerer.llm.X.lora_A.default.weight; in the file: base_model.model.X.lora_A.weight.
_OURS, _THEIRS = "answerer.llm.", "base_model.model."
FILE = "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapted:
    """A linear layer's weight with its adapter folded in: W + scale · B A, in W's type."""

    base: Weight
    down: Tensor  # A (rank, in)
    up: Tensor  # B (out, rank)
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    def flat(self, start: int, stop: int) -> Tensor:
        width = self.shape[1]
        rows = slice(start // width, -(-stop // width))
        change = ((self.up[rows].float() @ self.down.float()) * self.scale).flatten()
        skipped = start - rows.start * width
        own = self.base.flat(start, stop)
        return (own.float() + change[skipped : skipped + len(own)]).to(self.dtype)


def split_adapter(name: str) -> tuple[str, str]:
    """An adapter's parameter: the name of the weight it is added to, and ``A`` or ``B``."""
    for kind in "AB":
        layer, found, _ = name.partition(f".lora_{kind}.")
        if found:
            return f"{layer}.weight", kind
    raise AssertionError(f"{name} is no adapter's")


def fold(
    weights: Mapping[str, Weight], adapters: Mapping[str, Tensor], scale: float
) -> dict[str, Weight]:
    """The weights with each adapter folded into the one it belongs to."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, value in adapters.items():
        target, kind = split_adapter(name)
        pairs.setdefault(target, {})[kind] = value
    folded = {t: Adapted(weights[t], p["A"], p["B"], scale) for t, p in pairs.items()}
    return {**weights, **folded}


def write_adapter(
    config: GCGConfig, adapters: Mapping[str, Tensor], folder: Path, base: str
) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, as peft does.

    Args:
        config: of the model.
        adapters: by the model's own names.
        folder: is made.
        base: what the language model goes by.
    """
    from peft import LoraConfig
    from safetensors.torch import save_file

    from gcg.presets import resolve_preset

    lora = config.llm.lora
    targets = {split_adapter(name)[0].removeprefix(_OURS) for name in adapters}
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora.dropout,
        target_modules=sorted(target.removesuffix(".weight") for target in targets),
        base_model_name_or_path=base,
        task_type="SEQ_2_SEQ_LM" if resolve_preset(config).llm.is_encoder_decoder else "CAUSAL_LM",
        inference_mode=True,
    )
    folder.mkdir()
    settings.save_pretrained(str(folder))
    named = {_THEIRS + _plain(name): value.contiguous() for name, value in adapters.items()}
    save_file(named, folder / FILE, metadata={"format": "pt"})


def read_adapter(folder: Path) -> dict[str, Weight]:
    """The adapter's weights by the model's own names.

    Raises:
        ModelError: it is damaged.
    """
    found: dict[str, Weight] = {}
    for name, weight in read_checkpoint(folder / FILE).items():
        if not name.startswith(_THEIRS) or not name.endswith(".weight") or ".lora_" not in name:
            raise ModelError(
                f"{folder / FILE}: {name} is no weight of a LoRA adapter; export again"
            )
        inner = name.removeprefix(_THEIRS).removesuffix(".weight")
        found[f"{_OURS}{inner}.default.weight"] = weight
    return found


def _plain(name: str) -> str:
    return name.removeprefix(_OURS).replace(".default.weight", ".weight")
