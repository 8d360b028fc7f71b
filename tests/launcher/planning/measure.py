"""What autograd really keeps, and micro-batches whose lengths are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gcg.config import GCGConfig


def saved_bytes(module: nn.Module, call: Callable[[], Any], *known: Tensor) -> int:
    """Bytes of all storages that a forward pass keeps for the backward pass, each counted once;
    the module's own and those of ``known`` left out."""
    own = [*module.parameters(), *module.buffers(), *known]
    left_out = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: dict[int, int] = {}
    alive = []  # a storage let go of could be given out again, and be taken for the same

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in left_out:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive.append(call())
    return sum(kept.values())


def full_micro_batch(
    config: GCGConfig, visits: int, questions: int, tokens: int, words: int = 500
) -> dict[str, Tensor]:
    """A model's inputs, every text ``tokens`` long, ids below ``words``: nothing is padding."""
    generator = torch.Generator().manual_seed(0)
    pairs = visits * questions
    ids = torch.randint(5, words, (pairs, tokens), generator=generator)
    ids[:, -1] = 3  # CLIP reads its embedding off the end token
    mask = torch.ones_like(ids)
    clips = torch.randn(visits, config.num_frames, 3, 96, 96, generator=generator)
    return {
        "pixel_values": clips,
        "video_index": torch.arange(visits).repeat_interleave(questions),
        **{f"{text}_ids": ids for text in ("question", "description", "qformer", "prompt")},
        **{f"{text}_mask": mask for text in ("question", "description", "qformer", "prompt")},
        "answer_ids": ids,
        "moments": torch.arange(config.num_moments).expand(pairs, -1),
        "similarity": torch.rand(pairs, config.num_frames, generator=generator),
        "noise_seeds": torch.arange(pairs),
        "contrast_group": torch.zeros(visits, dtype=torch.int64),
        "positions": torch.arange(visits),
    }
