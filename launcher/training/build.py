"""From a run's configuration to the objects that need more than one room: model, text, frames."""

from __future__ import annotations

from dataclasses import dataclass

from dataloaders.batch import Collator
from gcg.build import encoder_fingerprint
from gcg.config import GCGConfig
from gcg.model import GCGModel
from gcg.presets import resolve_preset
from gcg.questions import question_encoder
from gcg.tokens import TokenSet, load_tokens


@dataclass(frozen=True)
class Parts:
    """A model, and what its inputs must look like.

    ``image_size`` is in pixels; ``encoder_fingerprint`` names the frozen encoders that
    pseudo-labels must come from.
    """

    model: GCGModel
    tokens: TokenSet
    image_size: int
    encoder_fingerprint: str


def build_parts(config: GCGConfig, model: GCGModel) -> Parts:
    """A model of that configuration with its tokenizers."""
    return Parts(
        model=model,
        tokens=load_tokens(config),
        image_size=resolve_preset(config).vision.image_size,
        encoder_fingerprint=encoder_fingerprint(config),
    )


def build_collator(config: GCGConfig, tokens: TokenSet, seed: int) -> Collator:
    """What makes batches of visits; ``seed`` is the run's, noise seeds come from it."""
    return Collator(question_encoder(config, tokens), seed)
