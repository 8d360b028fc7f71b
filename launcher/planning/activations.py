"""What autograd keeps for the backward pass, and what a pass without gradient needs.

The way of counting is that of Korthikanti et al. 2022, "Reducing Activation Recomputation in Large
Transformer Models" (arXiv 2205.05198, section 4.1): every operation's saved tensors, added up over
a block. Their 34·s·b·h + 5·a·s²·b is of one particular block; the terms here are those of the
blocks that are run, read off transformers' modules and checked against autograd itself in
``tests/launcher/planning/test_activations.py``. A tensor that two operations keep is counted once.

e = bytes of an element (2, or 4 in float32), w = width, a = heads × head width, f = width of the
feed-forward part, h = heads, S = tokens of a row. Norms of T5 and Llama are computed in float32
whatever the precision; dropout keeps a mask of one byte an element.
"""

from __future__ import annotations

from dataclasses import dataclass

from launcher.planning.shapes import Blocks, MicroBatch, ModelShape


@dataclass(frozen=True)
class Kept:
    """Bytes of one part: ``saved`` from the forward to the backward pass, ``working`` beside them
    while a block of the part is computed, forwards or backwards; ``tensor``: of the largest single
    one."""

    part: str
    saved: int
    working: int
    tensor: int


@dataclass(frozen=True)
class Mode:
    """How a part runs. ``inputs``: whether linear layers keep their inputs: where their weights
    learn, and under ZeRO-3 always (DeepSpeed's ``zero/linear.py``). ``learns``: norms keep what
    their own weights' gradients need, and dropout is on."""

    element: int
    inputs: bool
    learns: bool


def micro_batch_activations(
    model: ModelShape, batch: MicroBatch, element: int, zero: int, recompute: tuple[str, ...] = ()
) -> list[Kept]:
    """Activations of one micro-batch by part, in bytes.

    Args:
        element: bytes of an activation's element.
        zero: the ZeRO stage.
        recompute: ``engine.recompute``.
    """
    found = [
        _vision(model, batch, element, "vision" in recompute),
        _text(model, batch, element),
        _selection(model, batch, element),
    ]
    if model.generator is not None:
        found.append(_generator(model, batch, element))
    found.append(_reader(model, batch, element, "qformer" in recompute))
    learns = model.llm_train == "full"
    mode = Mode(element, inputs=learns or zero == 3, learns=learns)
    found += [_llm(model, batch, mode, "llm" in recompute), _logits(model, batch, element)]
    return found


def pile(blocks: Blocks, rows: int, tokens: int, mode: Mode, attended: int = 0) -> int:
    """Bytes that ``rows`` rows of ``tokens`` leave behind in all blocks of a pile, where each also
    attends to ``attended`` tokens of something else."""
    return blocks.layers * block(blocks, rows, tokens, mode, attended if blocks.cross else 0)


def block(blocks: Blocks, rows: int, tokens: int, mode: Mode, attended: int = 0) -> int:
    """Bytes that one block keeps.

    ========  =====================================================================================
    style     a token
    ========  =====================================================================================
    vit       e·(2w + 4a + f); with inputs e·(2w + f) more. LayerNorm keeps its input, attention
              q, k, v and its result, GELU its input. 4h: the soft-max's sums
    llama     8w + e·(4a + 3f); with inputs e·(2w + f), learning e·2w more: the norms' products.
              Keys and values are counted as often as there are query heads (``repeat_kv``)
    t5        8w + e·(2w + 3a + g·f), g = 6 gated, 4 not (``gelu_new``, ``relu`` 1 less 3); in
              float32 the norms' inputs once. With inputs e·(2w + a + f); learning e·2w more and
              masks of 2w + f. Eager: h·S·(4 + e), in float32 h·S·4
    bert      in :func:`qformer_block`
    ========  =====================================================================================

    Unfused attention (``eager``) keeps the probabilities: h·S·e a token, and in float32 besides
    where the precision is not.
    """
    e, w, a, f, h = mode.element, blocks.width, blocks.inner, blocks.ffn, blocks.heads
    if blocks.style == "vit":
        each = e * (2 * w + 4 * a + f) + 4 * h + (e * (2 * w + f) if mode.inputs else 0)
        each += 0 if blocks.fused else h * tokens * e
    elif blocks.style == "llama":
        each = 8 * w + e * (4 * a + 3 * f) + 4 * h
        each += e * (2 * w + f) if mode.inputs else 0
        each += e * 2 * w if mode.learns else 0
        if blocks.qk_norm:
            each += (4 + (e if mode.learns else 0)) * (a + blocks.kv_inner)
        if not blocks.fused:  # its result is not kept, but for the layer that reads it
            each += _probabilities(h, tokens, e) - (0 if mode.inputs else e * a)
    else:
        assert blocks.style == "t5", blocks.style
        each = _t5_norm(w, mode) + e * 3 * a + _probabilities(h, tokens, e)
        each += (e * (w + a) if mode.inputs else 0) + (w if mode.learns else 0)
        each += _t5_ffn(blocks, mode)
    kept = rows * tokens * each
    if attended:
        kept += _t5_cross(blocks, rows, tokens, attended, mode)
    return kept


def qformer_block(
    blocks: Blocks, rows: int, queries: int, words: int, patches: int, element: int, crosses: bool
) -> int:
    """Bytes that one trained block of the Q-Former keeps.

    Self-attention over S = queries + words: e·6w a token (input, q, k, v, merged heads, what the
    norm reads), probabilities before and after dropout and their mask h·S·(2e + 1), a mask of w.
    Feed-forward: e·(2w + 2f) and a mask of w. Cross-attention of the queries: e·4w a query and
    a mask of w, e·2w a patch (keys and values), h·patches·(2e + 1) a query.
    """
    e, w, f, h = element, blocks.width, blocks.ffn, blocks.heads
    tokens = queries + words
    kept = tokens * (6 * e * w + w + h * tokens * (2 * e + 1))
    kept += tokens * (e * (2 * w + 2 * f) + w)
    if crosses:
        kept += queries * (4 * e * w + w + h * patches * (2 * e + 1)) + patches * 2 * e * w
    return rows * kept


def _probabilities(heads: int, tokens: int, element: int) -> int:
    """A token's attention to ``tokens`` others: float32, and again in the precision."""
    return heads * tokens * (4 if element == 4 else 4 + element)


def _t5_norm(width: int, mode: Mode) -> int:
    e = mode.element
    read = 4 * width if e == 4 else (4 + e) * width
    return read + (e * width if mode.learns else 0)


def _t5_ffn(blocks: Blocks, mode: Mode) -> int:
    e, w, f = mode.element, blocks.width, blocks.ffn
    kept = _t5_norm(w, mode) + e * (6 if blocks.gated else 1) * f
    kept += e * (w + f) if mode.inputs else 0
    return kept + (w + f if mode.learns else 0)


def _t5_cross(blocks: Blocks, rows: int, tokens: int, attended: int, mode: Mode) -> int:
    e, w, a = mode.element, blocks.width, blocks.inner
    each = _t5_norm(w, mode) + e * a + _probabilities(blocks.heads, attended, e)
    each += (e * (w + a) if mode.inputs else 0) + (w if mode.learns else 0)
    return rows * (tokens * each + attended * 2 * e * a)


def _vision(model: ModelShape, batch: MicroBatch, element: int, recompute: bool) -> Kept:
    """E (V, T, N_I, D_I) stays for the choice of frames. A frozen trunk keeps nothing else: beside
    E it needs, for the frames of one pass, the hidden states of a block: the residual stream and
    a normed copy, and the wider of q, k, v with the result (4w) and twice the feed-forward part."""
    blocks, frames = model.vision, batch.visits * model.num_frames
    tokens = frames * model.image_tokens * blocks.width * element
    if model.features:
        return Kept("frame features", tokens, 0, tokens)
    one_pass = batch.frames_per_pass * model.image_tokens * element
    working = one_pass * (2 * blocks.width + max(4 * blocks.width, 2 * blocks.ffn))
    if not blocks.fused:
        working += 2 * one_pass * blocks.heads * model.image_tokens
    if not model.vision_trained:
        return Kept("vision trunk", tokens, working, tokens)
    mode = Mode(element, inputs=True, learns=True)
    # The joint head gives no gradient; its block is run without keeping anything.
    one = block(blocks, frames, model.image_tokens, mode)
    saved = blocks.layers * (tokens if recompute else one)
    return Kept("vision trunk", tokens + saved, 2 * one if recompute else one, tokens)


def _text(model: ModelShape, batch: MicroBatch, element: int) -> Kept:
    """The frozen text tower: the words' vectors stay, one block's hidden states come and go."""
    words = batch.pairs * batch.question * element
    working = words * batch.texts(model) * (2 * model.text.width + 2 * model.text.ffn)
    saved = words * model.joint_width
    return Kept("text tower", saved, working, saved)


def _selection(model: ModelShape, batch: MicroBatch, element: int) -> Kept:
    """Noise (P, n, T) in float32 and the chosen indices (P, n, K) in int64 of the perturbed top-K;
    C (V, T, D_C); Ê (P, K, N_I, D_I), and while it is put together two more copies of it. Profile
    released also keeps E once a pair."""
    frame = model.image_tokens * model.vision.width * element
    chosen = batch.pairs * model.num_moments * frame
    draws = 0
    if model.grounded:
        draws = batch.pairs * model.noise_samples * (4 * model.num_frames + 8 * model.num_moments)
    joint = batch.visits * model.num_frames * model.joint_width * element
    every = batch.pairs * model.num_frames * frame if model.spatial_tokens else 0
    return Kept("selection", chosen + draws + joint + every, 2 * chosen + draws, chosen)


def _generator(model: ModelShape, batch: MicroBatch, element: int) -> Kept:
    """A trained pre-norm encoder over T frames and the question's words, with three dropouts."""
    blocks = model.generator
    assert blocks is not None
    words = batch.texts(model) - 1 if model.pooled_texts else batch.question
    tokens = model.num_frames + words
    mode = Mode(element, inputs=True, learns=True)
    one = block(blocks, batch.pairs, tokens, mode) + batch.pairs * tokens * 3 * blocks.width
    embed = batch.pairs * tokens * model.joint_width * (4 + element)
    return Kept("generator", blocks.layers * one + embed, one, embed)


def _reader(model: ModelShape, batch: MicroBatch, element: int, recompute: bool) -> Kept:
    """The Q-Former learns, so it keeps all its activations; recomputed, each block's input."""
    blocks, queries, words = model.qformer, model.num_queries, batch.question
    rows = [(batch.pairs * model.num_moments, model.image_tokens)]
    if model.spatial_tokens:
        rows.append((batch.pairs, model.num_frames * model.image_tokens))
    saved = largest = 0
    for count, patches in rows:
        crossing = qformer_block(blocks, count, queries, words, patches, element, True)
        plain = qformer_block(blocks, count, queries, words, patches, element, False)
        inputs = count * (queries + words) * blocks.width * element
        if recompute:
            saved += blocks.layers * inputs
        else:
            saved += blocks.cross * crossing + (blocks.layers - blocks.cross) * plain
        largest = max(largest, crossing)
    soft = batch.pairs * batch.soft(model)
    saved += soft * (2 * blocks.width + 2 * model.llm.width) * element
    widest = batch.pairs * model.num_moments * (queries + words) * blocks.ffn * element
    return Kept("Q-Former + projection", saved, 2 * largest if recompute else largest, widest)


def _llm(model: ModelShape, batch: MicroBatch, mode: Mode, recompute: bool) -> Kept:
    """Gradients flow through the LLM to the soft prompt, so it keeps what they need even frozen."""
    shape, read = model.llm, batch.soft(model) + batch.prompt
    embeds = batch.pairs * read * shape.width * mode.element * 2
    if shape.decoder is None:
        piles = [(shape.blocks, read + batch.answer, 0)]
    else:
        piles = [(shape.blocks, read, 0), (shape.decoder, batch.answer, read)]
    saved, largest, widest = embeds, 0, 0
    for blocks, tokens, attended in piles:
        one = block(blocks, batch.pairs, tokens, mode, attended)
        if model.llm_train == "lora":
            one += adapters(blocks, batch.pairs, tokens, model.lora_rank, mode.element)
        inputs = batch.pairs * tokens * blocks.width * mode.element
        saved += blocks.layers * (inputs if recompute else one)
        largest = max(largest, one)
        widest = max(widest, batch.pairs * tokens * blocks.ffn * mode.element)
    return Kept("LLM", saved, 2 * largest if recompute else largest, widest)


def adapters(blocks: Blocks, rows: int, tokens: int, rank: int, element: int) -> int:
    """Adapters on every linear layer of a block: each keeps its own dropped-out copy of the input
    with its mask, and the narrow middle, of which it also keeps a scaled form."""
    layers = 4 + (3 if blocks.gated else 2) + (4 if blocks.cross else 0)
    read = (layers - 1) * blocks.width + blocks.ffn
    return rows * tokens * (read * (element + 1) + layers * rank * element)


def _logits(model: ModelShape, batch: MicroBatch, element: int) -> Kept:
    """Logits (P, L, V) of the answer: in the precision and in float32; cross-entropy keeps their
    log-soft-max in float32, and its gradient is as large again."""
    tokens = batch.answer + (1 if model.llm.decoder is None else 0)
    logits = batch.pairs * tokens * model.llm.vocabulary
    working = logits * (8 + (element if element != 4 else 0))
    return Kept("logits", logits * 4, working, logits * 4)
