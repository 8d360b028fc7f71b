"""Text side: the frozen CLIP text tower, giving word tokens and the pooled sentence.

P = texts, L = tokens, D_C = joint image-text width.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection


class TextTower(nn.Module):
    """CLIP text encoder with its projection applied to every token, not only the pooled one.

    At real size it is the text tower of open_clip's EVA01-g-14. Its attention is causal: padding
    to the right of a text's end mark changes nothing before it.
    """

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.clip = CLIPTextModelWithProjection(config)

    def forward(self, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, Tensor]:
        """(P, L) token ids and mask → tokens (P, L, D_C) and pooled (P, D_C), not normalised.

        A text longer than ``max_position_embeddings`` tokens does not fit: cut it before.
        """
        output = self.clip(input_ids=ids_PL, attention_mask=mask_PL)
        return self.clip.text_projection(output.last_hidden_state), output.text_embeds
