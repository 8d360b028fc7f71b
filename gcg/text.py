"""Text side: the frozen CLIP text tower, giving word tokens and the pooled sentence.

P = texts, L = tokens, D_C = joint image-text width.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers import (
    AutoModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PretrainedConfig,
)


class TextTower(nn.Module):
    """CLIP text encoder with its projection applied to every token, not only the pooled one.

    At real size it is the text tower of open_clip's EVA01-g-14. Its attention is causal: padding
    to the right of a text's end mark changes nothing before it.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.clip = CLIPTextModelWithProjection(cast(CLIPTextConfig, config))

    def forward(self, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, Tensor]:
        """(P, L) token ids and mask → tokens (P, L, D_C) and pooled (P, D_C), not normalised.

        A text longer than ``max_position_embeddings`` tokens does not fit: cut it before.
        """
        output = self.clip(input_ids=ids_PL, attention_mask=mask_PL)
        return self.clip.text_projection(output.last_hidden_state), output.text_embeds


class SentenceTower(nn.Module):
    """A BERT-like sentence encoder in the text tower's place, for frames that were encoded by it:
    captions, say. A sentence is the mean of its tokens, as sentence-transformers' plain pooling.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        encoder: Any = AutoModel.from_config(config)
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # BERT's [CLS] head, which is not read
        self.encoder = encoder

    def forward(self, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`TextTower.forward`, D_C being the encoder's width."""
        tokens_PLC = self.encoder(input_ids=ids_PL, attention_mask=mask_PL).last_hidden_state
        there_PL1 = mask_PL.unsqueeze(-1).to(tokens_PLC.dtype)
        return tokens_PLC, (tokens_PLC * there_PL1).sum(dim=1) / there_PL1.sum(dim=1).clamp(min=1)


def build_text(config: PretrainedConfig) -> TextTower | SentenceTower:
    """The tower for a configuration of either kind."""
    if isinstance(config, CLIPTextConfig):
        return TextTower(config)
    return SentenceTower(config)
