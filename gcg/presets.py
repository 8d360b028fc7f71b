"""What a preset's name stands for: the sizes of its encoders, Q-Former and LLM.

``tiny`` runs on a laptop's CPU. Its image-text encoder was trained on the sample corpus
(``examples/train_tiny_encoder.py``) and ships with the package; Q-Former and LLM start untrained.
``instructblip`` takes its sizes from ``model.checkpoint`` and ``model.clip_checkpoint``: from their
folders where these are on this machine, else from the catalogue, and only then from the hub.
Either takes another LLM, ``model.llm.name``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from transformers import (
    AutoConfig,
    CLIPTextConfig,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    PretrainedConfig,
    T5Config,
)

from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.part_configs import (
    clip_sizes,
    clip_text_config,
    converted,
    instructblip_config,
    llm_config,
    sentence_config,
)

PAD, BOS, EOS = 0, 1, 3
VOCABULARY = 512


@dataclass(frozen=True)
class Preset:
    """Hugging Face configurations of the parts, plus the joint width D_C and N_C query tokens.

    ``own_llm``: the LLM is the one that the checkpoint's Q-Former was trained for, so that the
    projection between them comes with the checkpoint.
    """

    vision: InstructBlipVisionConfig
    text: PretrainedConfig
    qformer: InstructBlipQFormerConfig
    llm: PretrainedConfig
    joint_width: int
    num_query_tokens: int
    own_llm: bool = True

    @property
    def llm_width(self) -> int:
        """D_L, the width of the LLM's word embeddings."""
        return int(self.llm.hidden_size)

    @property
    def image_size(self) -> int:
        """Height and width of a frame, in pixels."""
        return int(self.vision.image_size)


def tiny() -> Preset:
    """About 2 M parameters: 96-pixel frames, 37 tokens of width 128 each, a small T5."""
    return Preset(
        vision=InstructBlipVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=96,
            patch_size=16,
        ),
        text=CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=256,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        ),
        qformer=InstructBlipQFormerConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=256,
            max_position_embeddings=64,
            encoder_hidden_size=128,
            # 1/sqrt(width): with BERT's 0.02, meant for width 768, what the frames say starts as
            # a twentieth of the residual stream, and a short training hardly hears it.
            initializer_range=0.09,
            cross_attention_frequency=1,
            pad_token_id=PAD,
        ),
        llm=T5Config(
            vocab_size=VOCABULARY,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=True,
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=PAD,
        ),
        joint_width=128,
        num_query_tokens=4,
    )


def resolve_preset(config: GCGConfig) -> Preset:
    """The sizes of a model's parts. Needs no network for what the catalogue lists.

    Raises:
        ModelError: a checkpoint's configuration is not to be had, or is of another kind of model.
    """
    if config.preset == "tiny":
        preset = tiny()
    else:
        assert config.checkpoint is not None
        preset = _of_checkpoint(config.checkpoint, config.clip_checkpoint)
    if config.input == "features":
        preset = _of_features(preset, config)
    if llm_in_checkpoint(config):
        return preset
    assert config.llm.name is not None
    return replace(preset, llm=llm_config(config.llm.name), own_llm=False)


def _of_features(preset: Preset, config: GCGConfig) -> Preset:
    """The preset with the widths, and the text encoder, that its frames' features go with."""
    asked = config.features
    width = asked.width or preset.vision.hidden_size
    joint_width = asked.embedding_width or asked.width or preset.joint_width
    text: PretrainedConfig = preset.text
    if asked.text_encoder is not None:
        text = sentence_config(asked.text_encoder)
    text_width = preset.joint_width if asked.text_encoder is None else int(text.hidden_size)
    if text_width != joint_width:
        raise ModelError(
            f"model.features.embedding_width = {joint_width}: texts are vectors of {text_width}, "
            "and are compared with frames; choose the text_encoder that the frames were encoded by"
        )
    if width == preset.vision.hidden_size:
        return replace(preset, text=text, joint_width=joint_width)
    if config.preset != "tiny":
        raise ModelError(
            f"model.features.width = {width}: the checkpoint's Q-Former reads frames of width "
            f"{preset.vision.hidden_size}; use such features, or preset=tiny, whose Q-Former is "
            "trained from nothing"
        )
    qformer = copy.deepcopy(preset.qformer)
    qformer.encoder_hidden_size = width
    return replace(preset, text=text, qformer=qformer, joint_width=joint_width)


def frame_shape(config: GCGConfig) -> tuple[int, int, int]:
    """Of a frame's features: how many tokens L (0: any), their width D_I, and D_C."""
    preset = resolve_preset(config)
    image = preset.vision
    own = config.input == "video" or config.features.width is None
    tokens = (image.image_size // image.patch_size) ** 2 + 1 if own else 0
    if config.input == "features":
        tokens = config.features.tokens or tokens
    return tokens, preset.qformer.encoder_hidden_size, preset.joint_width


def llm_in_checkpoint(config: GCGConfig) -> bool:
    """Whether the LLM's weights come with the checkpoint: none is named, or the converted one."""
    if config.llm.name is None:
        return True
    if config.preset == "tiny":
        return False
    made = converted(config.checkpoint)
    return made is not None and made["made_from"]["llm"] == config.llm.name


def _of_checkpoint(checkpoint: str, clip_checkpoint: str) -> Preset:
    made = converted(checkpoint)
    if made is not None:
        return Preset(
            vision=InstructBlipVisionConfig.from_dict(made["vision"]),
            text=CLIPTextConfig.from_dict(made["text"]),
            qformer=InstructBlipQFormerConfig.from_dict(made["qformer"]),
            llm=AutoConfig.for_model(**made["llm"]),
            joint_width=made["joint_width"],
            num_query_tokens=made["num_query_tokens"],
            own_llm=made["own_llm"],
        )
    whole, clip = instructblip_config(checkpoint), clip_sizes(clip_checkpoint)
    return Preset(
        vision=whole.vision_config,
        text=clip_text_config(clip),
        qformer=whole.qformer_config,
        llm=whole.text_config,
        joint_width=clip["embed_dim"],
        num_query_tokens=whole.num_query_tokens,
    )
