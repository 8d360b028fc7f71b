"""Floating-point operations of a question-video pair, part by part.

A multiply-add counts as two. What is counted is matrix products, as
``torch.utils.flop_counter.FlopCounterMode`` does: a linear layer with a weight of n elements costs
2·n a token (Kaplan et al. 2020, "Scaling Laws for Neural Language Models", appendix A), attention
of S queries over S' keys 4·S·S'·inner a block, inner = heads × head width; causal attention is not
halved. The backward pass costs the same again for the gradient of each product's inputs and once
more for that of its weights, so a frozen part costs nothing where no gradient flows through it
(image and text encoders), and once where one does (a frozen LLM); attention has two inputs, so
always twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from launcher.planning.shapes import Blocks, LLMShape, MicroBatch, ModelShape


@dataclass(frozen=True)
class Flops:
    """Of one pair: forward, backward, and what activation checkpointing computes again."""

    part: str
    forward: float
    backward: float
    recompute: float

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.recompute


@dataclass(frozen=True)
class _Cost:
    """Forward FLOPs in weights' products and in attention; ``blocks``: of both, inside blocks."""

    products: float
    attention: float
    blocks: float

    @property
    def total(self) -> float:
        return self.products + self.attention


def pair_flops(
    model: ModelShape,
    batch: MicroBatch,
    pairs_per_visit: float,
    recompute: tuple[str, ...] = (),
) -> list[Flops]:
    """FLOPs of one pair by part; those of its visit are shared by the visit's pairs.

    Args:
        batch: the lengths of texts are read.
        recompute: ``engine.recompute``.
    """
    visits = 1 / pairs_per_visit
    found = []
    if not model.features:
        trunk, head = _vision(model)
        trained = 2.0 if model.vision_trained else 0.0
        # Gradients of a trained image encoder flow through the trunk, not through the joint space.
        found = [
            _flops("vision trunk", _scaled(trunk, visits), trained, trained, "vision" in recompute),
            _flops("joint head", _scaled(head, visits), 0, 0),
        ]
    found.append(_flops("text tower", _text(model, batch), 0, 0))
    if model.generator is not None:
        found.append(_flops("generator", _generator(model, batch), 2, 2))
    found.append(
        _flops("Q-Former + projection", _reader(model, batch), 2, 2, "qformer" in recompute)
    )
    llm, adapters = _llm(model.llm, model, batch), 0.0
    weights = {"frozen": 1, "lora": 1, "full": 2}[model.llm_train]
    if model.llm_train == "lora":
        adapters = _adapters(model.llm, model, batch)
    plain = _flops("LLM", llm, weights, 2, "llm" in recompute)
    again = plain.recompute + (adapters if plain.recompute else 0.0)
    found.append(Flops("LLM", plain.forward + adapters, plain.backward + 2 * adapters, again))
    return found


def _flops(part: str, cost: _Cost, products: float, attention: float, again: bool = False) -> Flops:
    backward = products * cost.products + attention * cost.attention
    return Flops(part, cost.total, backward, cost.blocks if again and backward else 0.0)


def _scaled(cost: _Cost, times: float) -> _Cost:
    return _Cost(cost.products * times, cost.attention * times, cost.blocks * times)


def _pile(blocks: Blocks, tokens: int, attended: int = 0) -> _Cost:
    """One row of ``tokens`` through all blocks; cross-attention reads ``attended`` tokens."""
    per_token = 2 * (blocks.attention_elements + blocks.ffn_elements)
    products = float(blocks.layers * tokens * per_token)
    attention = float(blocks.layers * 4 * tokens * tokens * blocks.inner)
    products += blocks.cross * 2 * blocks.cross_query_elements * tokens
    products += blocks.cross * 2 * blocks.cross_key_elements * attended
    attention += blocks.cross * 4 * tokens * attended * blocks.inner
    return _Cost(products, attention, products + attention)


def _vision(model: ModelShape) -> tuple[_Cost, _Cost]:
    """All frames of a visit: the trunk with its patch embedding; the joint head's one block."""
    blocks, frames, tokens = model.vision, model.num_frames, model.image_tokens
    patches = 2 * 3 * model.patch_size**2 * blocks.width * (tokens - 1)
    pile = _pile(blocks, tokens)
    trunk = _Cost(pile.products + patches, pile.attention, pile.blocks)
    share = 1 / blocks.layers
    projection = 2 * blocks.width * model.joint_width
    head = _Cost(pile.products * share + projection, pile.attention * share, 0.0)
    return _scaled(trunk, frames), _scaled(head, frames)


def _text(model: ModelShape, batch: MicroBatch) -> _Cost:
    """The texts of a pair; the projection is applied to every token, and to the pooled one."""
    pile = _pile(model.text, batch.question)
    projection = 2 * model.text.width * model.joint_width * (batch.question + 1)
    cost = _Cost(pile.products + projection, pile.attention, pile.blocks)
    return _scaled(cost, batch.texts(model))


def _generator(model: ModelShape, batch: MicroBatch) -> _Cost:
    blocks = model.generator
    assert blocks is not None
    texts = batch.texts(model) - 1 if model.pooled_texts else batch.question
    tokens = model.num_frames + texts
    pile = _pile(blocks, tokens)
    embed = 2 * model.joint_width * blocks.width * tokens
    pool = model.num_frames * blocks.width**2
    return _Cost(pile.products + embed + pool, pile.attention, pile.blocks)


def _reader(model: ModelShape, batch: MicroBatch) -> _Cost:
    """Each moment is a row of queries and question words; profile released adds one row over all
    patches of the video. Only queries attend to the image."""
    rows = [(model.num_moments, model.image_tokens)]
    if model.spatial_tokens:
        rows.append((1, model.num_frames * model.image_tokens))
    products = attention = 0.0
    for count, patches in rows:
        cost = _qformer_row(model.qformer, model.num_queries, batch.question, patches)
        products, attention = products + count * cost.products, attention + count * cost.attention
    projection = 2 * model.qformer.width * model.llm.width * batch.soft(model)
    # Choosing the frames, S·E, is a product too.
    choice = 2 * model.num_moments * model.num_frames * model.image_tokens * model.vision.width
    return _Cost(products + projection + choice, attention, products + attention)


def _qformer_row(blocks: Blocks, queries: int, words: int, patches: int) -> _Cost:
    tokens = queries + words
    per_token = 2 * (blocks.attention_elements + blocks.ffn_elements)
    products = float(blocks.layers * tokens * per_token)
    products += blocks.cross * 2 * blocks.cross_query_elements * queries
    products += blocks.cross * 2 * blocks.cross_key_elements * patches
    attention = float(blocks.layers * 4 * tokens * tokens * blocks.inner)
    attention += blocks.cross * 4 * queries * patches * blocks.inner
    return _Cost(products, attention, products + attention)


def _llm(llm: LLMShape, model: ModelShape, batch: MicroBatch) -> _Cost:
    """The blocks over everything that is read, the output head over the answer alone."""
    read = batch.soft(model) + batch.prompt
    head = 2.0 * llm.width * llm.vocabulary * batch.answer
    if llm.decoder is None:
        pile = _pile(llm.blocks, read + batch.answer)
        head += 2.0 * llm.width * llm.vocabulary  # the logit before the answer, too
        return _Cost(pile.products + head, pile.attention, pile.blocks)
    encoder, decoder = _pile(llm.blocks, read), _pile(llm.decoder, batch.answer, read)
    products = encoder.products + decoder.products
    attention = encoder.attention + decoder.attention
    return _Cost(products + head, attention, products + attention)


def _adapters(llm: LLMShape, model: ModelShape, batch: MicroBatch) -> float:
    """Rank-r adapters A (r, in), B (out, r) on every linear layer of the blocks."""
    read = batch.soft(model) + batch.prompt
    if llm.decoder is None:
        return _adapter_flops(llm.blocks, read + batch.answer, 0, model.lora_rank)
    return _adapter_flops(llm.blocks, read, 0, model.lora_rank) + _adapter_flops(
        llm.decoder, batch.answer, read, model.lora_rank
    )


def _adapter_flops(blocks: Blocks, tokens: int, attended: int, rank: int) -> float:
    width, inner, ffn = blocks.width, blocks.inner, blocks.ffn
    sides = 2 * (width + inner) + 2 * (width + blocks.kv_inner)
    sides += (3 if blocks.gated else 2) * (width + ffn)
    cost = float(blocks.layers * tokens * 2 * rank * sides)
    cost += blocks.cross * 2 * rank * 2 * (width + inner) * tokens
    return cost + blocks.cross * 2 * rank * 2 * (blocks.cross_width + inner) * attended
