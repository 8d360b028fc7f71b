"""What a preset's name stands for: the sizes of its encoders, Q-Former and LLM.

``tiny`` runs on a laptop's CPU. Its image-text encoder was trained on the sample corpus
(``examples/train_tiny_encoder.py``) and ships with the package; Q-Former and LLM start untrained.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import (
    CLIPTextConfig,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    T5Config,
)

PAD, BOS, EOS = 0, 1, 3
VOCABULARY = 512


@dataclass(frozen=True)
class Preset:
    """Hugging Face configurations of the parts, plus the joint width D_C and N_C query tokens."""

    vision: InstructBlipVisionConfig
    text: CLIPTextConfig
    qformer: InstructBlipQFormerConfig
    llm: T5Config
    joint_width: int
    num_query_tokens: int


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


PRESETS = {"tiny": tiny}
