"""Checkpoints of random weights in the public layout, made once for each size."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.gcg.weights.checkpoints import LLM, Sizes, make_instructblip, make_open_clip


def keep_random(
    folder: Path, sizes: Sizes, llm: LLM, dtype: torch.dtype = torch.float32
) -> tuple[Path, Path]:
    """An InstructBLIP and an EVA-CLIP of these sizes that fit each other; what is there is kept.

    Args:
        llm: the kind of language model inside.

    Returns:
        The folders of both, ``model.checkpoint`` and ``model.clip_checkpoint`` of a run file.
    """
    instructblip, clip, done = folder / "instructblip", folder / "clip", folder / "model.json"
    made = repr((sizes, llm, dtype))
    if not (done.is_file() and done.read_text() == made):
        eva, _ = make_open_clip(clip, sizes, dtype=dtype)
        make_instructblip(instructblip, llm, sizes, dtype=dtype, eva=eva)
        done.write_text(made)
    return instructblip, clip
