"""The model's floating-point operations of the micro-batches that a rank has computed."""

from __future__ import annotations

from collections.abc import Sequence

from dataloaders.batch import Batch
from gcg.presets import resolve_preset
from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.planning.flops import pair_flops
from launcher.planning.shapes import MicroBatch, ModelShape, model_shape


class StepCost:
    """Counts FLOPs of micro-batches as `gcg plan` does, with the lengths that their texts have.

    Forward and backward; what activation checkpointing computes again is no work of the model's
    (Chowdhery et al. 2022, "PaLM", appendix B). ``why_not`` says why there is no count.
    """

    def __init__(self, config: RunConfig) -> None:
        self._shape: ModelShape | None = None
        self.why_not: str | None = None
        try:
            self._shape = model_shape(config.model, resolve_preset(config.model))
        except UserError as error:
            self.why_not = error.lines[0]

    def __call__(self, micro: Sequence[Batch]) -> float:
        """FLOPs of a rank's micro-batches, padding included; NaN where they cannot be counted."""
        if self._shape is None:
            return float("nan")
        return sum(_flops(self._shape, batch) for batch in micro)


def _flops(shape: ModelShape, batch: Batch) -> float:
    visits, pairs = len(batch.contrast_group), batch.num_pairs
    texts = MicroBatch(
        visits=visits,
        pairs=pairs,
        question=max(batch.question_ids.shape[1], batch.qformer_ids.shape[1]),
        prompt=batch.prompt_ids.shape[1],
        answer=batch.answer_ids.shape[1],
        frames_per_pass=visits * shape.num_frames,
    )
    parts = pair_flops(shape, texts, pairs / visits)
    return pairs * sum(part.forward + part.backward for part in parts)
