"""From chosen frames to an answer (step 9): Q-Former, temporal embedding, projection, LLM.

P = question-video pairs, K = moments, N_I = tokens per frame, N_C = query tokens, D_I = vision
width, D_Q = Q-Former width, D_L = LLM width, L = text tokens, O = options.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

IGNORED = -100


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

    def forward(self, chosen_PKND: Tensor, ids_PL: Tensor, mask_PL: Tensor) -> Tensor:
        """Ê (P, K, N_I, D_I) and the question for the Q-Former → (P, K·N_C, D_L)."""
        num_pairs, num_moments = chosen_PKND.shape[:2]
        num_queries = self.query_tokens.shape[1]
        queries = self.query_tokens.expand(num_pairs * num_moments, -1, -1)
        text_mask = mask_PL.repeat_interleave(num_moments, dim=0)
        mask = torch.cat([text_mask.new_ones(len(text_mask), num_queries), text_mask], dim=1)
        output = self.qformer(
            input_ids=ids_PL.repeat_interleave(num_moments, dim=0),
            attention_mask=mask,
            query_embeds=queries,
            encoder_hidden_states=chosen_PKND.flatten(0, 1),
        )
        read = output.last_hidden_state[:, :num_queries].unflatten(0, (num_pairs, num_moments))
        moments = torch.arange(num_moments, device=read.device)
        read = read + self.temporal(moments)[None, :, None, :]
        return self.projection(read.flatten(1, 2))


class Answerer(nn.Module):
    """An encoder-decoder LLM that reads soft-prompt tokens and then the prompt's words."""

    def __init__(self, llm: Any) -> None:
        super().__init__()
        self.llm = llm

    def _inputs(self, soft_PSD: Tensor, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, Tensor]:
        words = self.llm.get_input_embeddings()(ids_PL)
        embeds = torch.cat([soft_PSD.to(words.dtype), words], dim=1)
        mask = torch.cat([mask_PL.new_ones(soft_PSD.shape[:2]), mask_PL], dim=1)
        return embeds, mask

    def loss(self, soft_PSD: Tensor, ids_PL: Tensor, mask_PL: Tensor, answer_PL: Tensor) -> Tensor:
        """L_vqa: each pair's mean cross-entropy over its answer's tokens, (P,)."""
        embeds, mask = self._inputs(soft_PSD, ids_PL, mask_PL)
        logits = self.llm(inputs_embeds=embeds, attention_mask=mask, labels=answer_PL).logits
        per_token = _token_losses(logits, answer_PL)
        return per_token.sum(dim=1) / (answer_PL != IGNORED).sum(dim=1).clamp(min=1)

    def option_scores(
        self, soft_PSD: Tensor, ids_PL: Tensor, mask_PL: Tensor, option_POL: Tensor
    ) -> Tensor:
        """Log-likelihood of every option, (P, O); -inf for an option that is all padding."""
        embeds, mask = self._inputs(soft_PSD, ids_PL, mask_PL)
        encoded = self.llm.get_encoder()(inputs_embeds=embeds, attention_mask=mask)
        num_options = option_POL.shape[1]
        labels = option_POL.flatten(0, 1)
        present = (labels != IGNORED).any(dim=1)
        # The encoder runs once a question; only the short decoder runs once an option.
        states = encoded.last_hidden_state.repeat_interleave(num_options, dim=0)
        logits = self.llm(
            encoder_outputs=(states,),
            attention_mask=mask.repeat_interleave(num_options, dim=0),
            labels=labels,
        ).logits
        scores = -_token_losses(logits, labels).sum(dim=1)
        return scores.masked_fill(~present, -torch.inf).unflatten(0, (-1, num_options))

    def generate(
        self, soft_PSD: Tensor, ids_PL: Tensor, mask_PL: Tensor, max_new_tokens: int
    ) -> Tensor:
        """Greedy answer tokens, (P, L')."""
        embeds, mask = self._inputs(soft_PSD, ids_PL, mask_PL)
        return self.llm.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
        )


def _token_losses(logits_PLV: Tensor, labels_PL: Tensor) -> Tensor:
    return F.cross_entropy(
        logits_PLV.float().transpose(1, 2), labels_PL, ignore_index=IGNORED, reduction="none"
    )
