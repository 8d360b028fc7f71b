"""The shapes that a micro-batch has on its way through the model.

V = visits, P = question-video pairs, T = frames, K = moments, O = options, N_I = tokens per frame,
N_C = query tokens, L = text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from gcg.config import GCGConfig
from gcg.llm import is_encoder_decoder
from gcg.presets import Preset, frame_shape
from gcg.profiles import resolve_profile
from launcher.config import RunConfig
from launcher.errors import UserError

# Width and height of a clip before it is resized, where the data do not say.
CLIP_SIZE = (1280, 720)
# Options of a multiple-choice question: NExT-QA, Intent-QA and Causal-VidQA all have five.
NUM_OPTIONS = 5

Style = Literal["vit", "bert", "t5", "llama"]


@dataclass(frozen=True)
class Blocks:
    """A pile of alike Transformer blocks.

    ``style`` says which tensors autograd keeps (:mod:`launcher.planning.activations`). ``inner``
    and ``kv_inner`` are heads × head width of the queries and of the keys and values; ``fused``:
    attention keeps no probabilities; ``cross``: how many of the blocks also attend to something
    else, of ``cross_width``; ``qk_norm``: queries and keys are normalised head by head (Qwen3).
    """

    style: Style
    layers: int
    width: int
    heads: int
    inner: int
    kv_inner: int
    ffn: int
    gated: bool = False
    fused: bool = True
    qk_norm: bool = False
    cross: int = 0
    cross_width: int = 0

    @property
    def attention_elements(self) -> int:
        """Elements of the four attention matrices of one block."""
        return self.width * (2 * self.inner + 2 * self.kv_inner)

    @property
    def ffn_elements(self) -> int:
        """Elements of the matrices of one block's feed-forward part."""
        return (3 if self.gated else 2) * self.width * self.ffn

    @property
    def cross_query_elements(self) -> int:
        """Elements of the matrices that the queries of one cross-attention meet."""
        return 2 * self.width * self.inner

    @property
    def cross_key_elements(self) -> int:
        """Elements of the matrices that what is attended to meets."""
        return 2 * self.cross_width * self.inner


@dataclass(frozen=True)
class LLMShape:
    """The language model: one pile of blocks, or an encoder's and a decoder's."""

    blocks: Blocks
    decoder: Blocks | None
    width: int
    vocabulary: int


@dataclass(frozen=True)
class ModelShape:
    """Everything about a model that its activations and its FLOPs depend on. ``features``: frames
    come encoded, as ``image_tokens`` vectors as wide as ``vision``, of which there is no layer."""

    vision: Blocks
    image_size: int
    patch_size: int
    image_tokens: int
    joint_width: int
    text: Blocks
    text_context: int
    generator: Blocks | None
    qformer: Blocks
    num_queries: int
    llm: LLMShape
    vision_trained: bool
    llm_train: Literal["frozen", "lora", "full"]
    lora_rank: int
    num_frames: int
    num_moments: int
    noise_samples: int
    spatial_tokens: bool
    pooled_texts: bool
    grounded: bool
    features: bool = False


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass on one worker. Texts have the most tokens that the run file lets them have;
    ``question`` is the planner's own assumption, since a question is cut only at the encoders'
    limits. ``clip``: width and height of a clip as it is stored."""

    visits: int
    pairs: int
    question: int
    prompt: int
    answer: int
    frames_per_pass: int
    clip: tuple[int, int] = CLIP_SIZE

    def soft(self, model: ModelShape) -> int:
        """Soft-prompt tokens of a pair: K·N_C, and N_C of the whole video in profile released."""
        images = model.num_moments + (1 if model.spatial_tokens else 0)
        return images * model.num_queries

    def texts(self, model: ModelShape) -> int:
        """Texts that the CLIP text tower reads for a pair: the question and the description; in
        profile released the options and the answer, too."""
        if not model.grounded:
            return 1
        return 2 + (NUM_OPTIONS + 1 if model.pooled_texts else 0)


def micro_batch(
    config: RunConfig,
    model: ModelShape,
    visits: int,
    question: int,
    clip: tuple[int, int] = CLIP_SIZE,
) -> MicroBatch:
    """A micro-batch of ``visits`` full visits, questions of ``question`` tokens."""
    frames = visits * model.num_frames
    return MicroBatch(
        visits=visits,
        pairs=visits * config.data.questions_per_visit,
        question=question,
        prompt=config.model.llm.max_prompt_tokens,
        answer=config.model.llm.max_answer_tokens,
        frames_per_pass=min(frames, config.model.vision.frames_per_pass or frames),
        clip=clip,
    )


def model_shape(config: GCGConfig, preset: Preset) -> ModelShape:
    """The shapes of the model that ``config`` describes.

    Raises:
        UserError: the LLM's configuration does not say how large its blocks are.
    """
    vision, profile = preset.vision, resolve_profile(config)
    image_tokens, width, _ = frame_shape(config)
    features = config.input == "features"
    blocks = _encoder("vit", vision)
    if features:
        blocks = replace(blocks, layers=0, width=width)
    generator_width = config.grounding.width or preset.joint_width // 4
    return ModelShape(
        vision=blocks,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        image_tokens=image_tokens or 1,  # features made elsewhere have one, or it is configured
        joint_width=preset.joint_width,
        text=_encoder("vit", preset.text),
        text_context=preset.text.max_position_embeddings,
        generator=Blocks(
            "vit",
            config.grounding.num_layers,
            generator_width,
            config.grounding.num_heads,
            generator_width,
            generator_width,
            4 * generator_width,
        )
        if config.mode == "grounding"
        else None,
        qformer=_qformer(preset.qformer),
        num_queries=preset.num_query_tokens,
        llm=llm_shape(preset.llm, config.llm.attention),
        vision_trained=config.vision.train,
        llm_train=config.llm.train,
        lora_rank=config.llm.lora.rank,
        num_frames=config.num_frames,
        num_moments=config.num_moments,
        noise_samples=config.grounding.noise_samples,
        spatial_tokens=profile.spatial_tokens,
        pooled_texts=profile.pooled_texts,
        grounded=config.mode == "grounding",
        features=features,
    )


def llm_shape(llm: Any, attention: str = "auto") -> LLMShape:
    """Sizes of an LLM from its Hugging Face configuration.

    Raises:
        UserError: it is of a kind whose sizes are not told by the usual names.
    """
    if is_encoder_decoder(llm):
        return _t5(llm)
    if getattr(llm, "num_experts", None) or getattr(llm, "num_local_experts", None):
        raise UserError(
            f"model.llm.name: {llm.model_type}: a mixture of experts, whose memory depends on the "
            "routing and is not planned; choose a dense model"
        )
    try:
        heads = llm.num_attention_heads
        head_width = getattr(llm, "head_dim", None) or llm.hidden_size // heads
        blocks = Blocks(
            style="llama",
            layers=llm.num_hidden_layers,
            width=llm.hidden_size,
            heads=heads,
            inner=heads * head_width,
            kv_inner=(getattr(llm, "num_key_value_heads", None) or heads) * head_width,
            ffn=llm.intermediate_size,
            gated=True,
            fused=attention != "eager",
            qk_norm=llm.model_type.startswith("qwen3"),
        )
        return LLMShape(blocks, None, llm.hidden_size, llm.vocab_size)
    except AttributeError as error:
        raise UserError(
            f"model.llm.name: {llm.model_type}: its configuration has no {error.name}; a model "
            "like Llama, Qwen or T5 can be planned"
        ) from None


def _encoder(style: Style, part: Any) -> Blocks:
    width = part.hidden_size
    return Blocks(
        style,
        part.num_hidden_layers,
        width,
        part.num_attention_heads,
        width,
        width,
        part.intermediate_size,
    )


def _qformer(part: Any) -> Blocks:
    width, layers = part.hidden_size, part.num_hidden_layers
    return Blocks(
        style="bert",
        layers=layers,
        width=width,
        heads=part.num_attention_heads,
        inner=width,
        kv_inner=width,
        ffn=part.intermediate_size,
        fused=False,  # transformers has no other kernel for it
        cross=-(-layers // part.cross_attention_frequency),
        cross_width=part.encoder_hidden_size,
    )


def _t5(llm: Any) -> LLMShape:
    def pile(layers: int, cross: int) -> Blocks:
        inner = llm.num_heads * llm.d_kv
        return Blocks(
            style="t5",
            layers=layers,
            width=llm.d_model,
            heads=llm.num_heads,
            inner=inner,
            kv_inner=inner,
            ffn=llm.d_ff,
            gated=llm.is_gated_act,
            fused=False,  # transformers has no other kernel for it
            cross=cross,
            cross_width=llm.d_model,
        )

    try:
        decoder = llm.num_decoder_layers
        return LLMShape(
            pile(llm.num_layers, 0), pile(decoder, decoder), llm.d_model, llm.vocab_size
        )
    except AttributeError as error:
        raise UserError(
            f"model.llm.name: {llm.model_type}: its configuration has no {error.name}; a model "
            "like T5, Llama or Qwen can be planned"
        ) from None
