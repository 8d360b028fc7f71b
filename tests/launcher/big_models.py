"""Small checkpoints of the real kinds, runs of them, and batches without video files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from launcher.config import RunConfig, parse_run_config
from tests.gcg.weights.checkpoints import Sizes, make_instructblip, make_llm, make_open_clip

FRAMES, LENGTH = 4, 5
# 140 M parameters: large beside what a process needs for itself, soon written and read.
BIG = Sizes(llm_width=1024, llm_ffn=2816, llm_layers=12, llm_heads=16)


def make_checkpoints(root: Path) -> None:
    """InstructBLIP folders ``t5`` and ``llama``, their ``clip``, and a ``big`` LLM in bfloat16."""
    eva, _ = make_open_clip(root / "clip")
    make_instructblip(root / "t5", "t5", eva=eva)
    make_instructblip(root / "llama", "llama", eva=eva)
    make_llm(root / "big", "llama", BIG, dtype=torch.bfloat16)


def instructblip(root: Path, kind: str, **changes: Any) -> dict[str, Any]:
    """A model's settings; three moments and odd widths, so that few sizes divide by the ranks."""
    return {
        "preset": "instructblip",
        "checkpoint": str(root / kind),
        "clip_checkpoint": str(root / "clip"),
        "num_frames": FRAMES,
        "num_moments": 3,
        "grounding": {"width": 12, "noise_samples": 10},
        **changes,
    }


def run_of(model: dict[str, Any], storage: Path, world_size: int, **engine: Any) -> RunConfig:
    """A short run; ``engine`` changes that section."""
    tree = {
        "run": {"name": "sharded", "storage": str(storage)},
        "data": {
            "train": "nowhere",
            "global_batch": 2 * world_size,
            "streams": world_size,
            "contrast_group": 1,
        },
        "model": model,
        "optim": {"steps": 10, "lr": 1e-3, "grounding_lr": 1e-3, "warmup_steps": 1},
        "engine": {"zero": 3, "precision": "bf16", "micro_batch": 2, **engine},
        "scale": {"num_workers": world_size},
    }
    return parse_run_config(tree)


@dataclass(frozen=True)
class Clips:
    """A micro-batch of two videos with two questions each, of noise; its number is its seed."""

    number: int
    image_size: int = 28
    vocabulary: int = 200

    num_pairs = 4

    def model_inputs(self) -> Mapping[str, Tensor | None]:
        generator = torch.Generator().manual_seed(self.number)

        def words(length: int = LENGTH) -> Tensor:
            return torch.randint(4, self.vocabulary, (4, length), generator=generator)

        mask = torch.ones(4, LENGTH, dtype=torch.long)
        shape = (2, FRAMES, 3, self.image_size, self.image_size)
        moments = [torch.randperm(FRAMES, generator=generator)[:3].sort().values for _ in range(4)]
        return {
            "pixel_values": torch.randn(shape, generator=generator),
            "video_index": torch.tensor([0, 0, 1, 1]),
            "question_ids": words(),
            "question_mask": mask,
            "qformer_ids": words(),
            "qformer_mask": mask,
            "prompt_ids": words(),
            "prompt_mask": mask,
            "answer_ids": words(3),
            "noise_seeds": 4 * self.number + torch.arange(4),
            "contrast_group": torch.arange(2),
            "positions": torch.arange(2),
            "description_ids": words(),
            "description_mask": mask,
            "moments": torch.stack(moments),
        }
