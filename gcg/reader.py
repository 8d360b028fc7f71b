"""From chosen frames to soft-prompt tokens (step 9): Q-Former, temporal embedding, projection.

P = question-video pairs, K = moments, T = frames, N_I = tokens per frame, N_C = query tokens,
D_I = vision width, D_Q = Q-Former width, D_L = LLM width, L = text tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel


class FrameReader(nn.Module):
    """The instruction-aware Q-Former over each chosen frame: N_C soft-prompt tokens a moment."""

    def __init__(
        self,
        config: InstructBlipQFormerConfig,
        num_query_tokens: int,
        num_moments: int,
        llm_width: int,
    ) -> None:
        super().__init__()
        width = config.hidden_size
        self.query_tokens = nn.Parameter(torch.randn(1, num_query_tokens, width) * 0.02)
        self.qformer = InstructBlipQFormerModel(config)
        self.temporal = nn.Embedding(num_moments, width)
        nn.init.normal_(self.temporal.weight, std=0.02)
        self.projection = nn.Linear(width, llm_width)

    def forward(
        self,
        chosen_PKND: Tensor,
        ids_PL: Tensor,
        mask_PL: Tensor,
        every_PTND: Tensor | None = None,
    ) -> Tensor:
        """Ê (P, K, N_I, D_I) and the question for the Q-Former → (P, K·N_C, D_L).

        With ``every_PTND``, all frames of each pair's video, N_C "spatial" tokens follow: one pass
        over all T·N_I patches at once (profile ``released``).
        """
        read = self._read(chosen_PKND, ids_PL, mask_PL)
        moments = torch.arange(chosen_PKND.shape[1], device=read.device)
        soft = (read + self.temporal(moments)[None, :, None, :]).flatten(1, 2)
        if every_PTND is not None:
            whole_P1ND = every_PTND.flatten(1, 2).unsqueeze(1)
            soft = torch.cat([soft, self._read(whole_P1ND, ids_PL, mask_PL).squeeze(1)], dim=1)
        return self.projection(soft)

    def _read(self, images_PMND: Tensor, ids_PL: Tensor, mask_PL: Tensor) -> Tensor:
        """M sets of image tokens a pair → (P, M, N_C, D_Q)."""
        num_pairs, num_images = images_PMND.shape[:2]
        num_queries = self.query_tokens.shape[1]
        queries = self.query_tokens.expand(num_pairs * num_images, -1, -1)
        text_mask = mask_PL.repeat_interleave(num_images, dim=0)
        mask = torch.cat([text_mask.new_ones(len(text_mask), num_queries), text_mask], dim=1)
        output = self.qformer(
            input_ids=ids_PL.repeat_interleave(num_images, dim=0),
            attention_mask=mask,
            query_embeds=queries,
            encoder_hidden_states=images_PMND.flatten(0, 1),
        )
        read = output.last_hidden_state[:, :num_queries]
        return read.unflatten(0, (num_pairs, num_images))
