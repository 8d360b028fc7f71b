"""From a run's configuration to the objects that need more than one room: model, text, frames."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from dataloaders.batch import Collator, PromptTemplate, TextCoder
from gcg.build import build_model, encoder_fingerprint, load_tokenizer
from gcg.config import GCGConfig
from gcg.model import GCGModel
from gcg.presets import PRESETS


@dataclass(frozen=True)
class Coders:
    """The tokenizers a batch needs: CLIP text, Q-Former, LLM prompt, LLM answer."""

    clip: TextCoder
    qformer: TextCoder
    prompt: TextCoder
    answer: TextCoder


@dataclass(frozen=True)
class Parts:
    """A model, and what its inputs must look like.

    ``tokenizer`` turns generated tokens back into words; ``image_size`` is in pixels;
    ``encoder_fingerprint`` names the frozen encoders that pseudo-labels must come from.
    """

    model: GCGModel
    coders: Coders
    tokenizer: Tokenizer
    image_size: int
    encoder_fingerprint: str


def build_parts(config: GCGConfig, seed: int = 0) -> Parts:
    """Build the model with its first weights drawn from ``seed``, and its tokenizers."""
    return Parts(
        model=build_model(config, seed),
        coders=build_coders(config),
        tokenizer=load_tokenizer(config),
        image_size=PRESETS[config.preset]().vision.image_size,
        encoder_fingerprint=encoder_fingerprint(config),
    )


def build_coders(config: GCGConfig) -> Coders:
    """The preset's tokenizers, cut to what each part of the model can take."""
    preset, tokenizer = PRESETS[config.preset](), load_tokenizer(config)
    eos = preset.llm.eos_token_id
    assert isinstance(eos, int)

    def sentence(texts: list[str]) -> list[list[int]]:
        return [row.ids for row in tokenizer.encode_batch(texts)]

    def bare(texts: list[str]) -> list[list[int]]:
        # T5 marks the end of a text, but not its beginning.
        rows = tokenizer.encode_batch(texts, add_special_tokens=False)
        return [[*row.ids, eos] for row in rows]

    pad = preset.llm.pad_token_id
    assert isinstance(pad, int)
    return Coders(
        clip=TextCoder(sentence, pad, preset.text.max_position_embeddings, eos),
        qformer=TextCoder(sentence, pad, preset.qformer.max_position_embeddings, eos),
        prompt=TextCoder(bare, pad, config.llm.max_prompt_tokens, eos),
        answer=TextCoder(bare, pad, config.llm.max_answer_tokens, eos),
    )


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
    )
