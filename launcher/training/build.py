"""From a run's configuration to the objects that need more than one room: model, text, frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dataloaders.batch import Collator
from dataloaders.texts import PromptTemplate, TextCoder
from gcg.build import encoder_fingerprint
from gcg.config import GCGConfig
from gcg.model import GCGModel
from gcg.presets import resolve_preset
from gcg.profiles import resolve_profile
from gcg.tokens import RoleTokens, clip_tokens, load_tokens


@dataclass(frozen=True)
class Coders:
    """The tokenizers a batch needs: CLIP text, Q-Former, LLM prompt, LLM answer.

    ``decode`` turns rows of generated ids back into words.
    """

    clip: TextCoder
    qformer: TextCoder
    prompt: TextCoder
    answer: TextCoder
    decode: Callable[[Sequence[Sequence[int]]], list[str]]


@dataclass(frozen=True)
class Parts:
    """A model, and what its inputs must look like.

    ``image_size`` is in pixels; ``encoder_fingerprint`` names the frozen encoders that
    pseudo-labels must come from.
    """

    model: GCGModel
    coders: Coders
    image_size: int
    encoder_fingerprint: str


def build_parts(config: GCGConfig, model: GCGModel) -> Parts:
    """A model of that configuration with its tokenizers."""
    return Parts(
        model=model,
        coders=build_coders(config),
        image_size=resolve_preset(config).vision.image_size,
        encoder_fingerprint=encoder_fingerprint(config),
    )


def build_coders(config: GCGConfig) -> Coders:
    """The tokenizers of the model's checkpoints, cut to what each part of it can take.

    Raises:
        ValueError: a tokenizer cannot be had, or does not fit.
    """
    tokens = load_tokens(config)
    return Coders(
        clip=_coder(tokens.clip),
        qformer=_coder(tokens.qformer),
        prompt=_coder(tokens.prompt),
        answer=_coder(tokens.answer),
        decode=tokens.decode,
    )


def build_clip_coder(config: GCGConfig) -> TextCoder:
    """The tokenizer of the CLIP text tower alone: labelling needs no LLM."""
    return _coder(clip_tokens(config))


def _coder(role: RoleTokens) -> TextCoder:
    return TextCoder(role.encode, role.pad_id, role.max_length, role.prefix, role.suffix)


def build_collator(config: GCGConfig, coders: Coders, seed: int) -> Collator:
    """What makes batches of visits; ``seed`` is the run's, noise seeds come from it."""
    template = PromptTemplate(multiple_choice=config.llm.prompt, open_ended=config.llm.prompt)
    return Collator(
        clip=coders.clip,
        qformer=coders.qformer,
        prompt=coders.prompt,
        answer=coders.answer,
        template=template,
        seed=seed,
        answer_texts=resolve_profile(config).pooled_texts,
    )
