"""From soft-prompt tokens and the prompt's words to an answer (step 9), by any language model.

Batches come padded on the right; what an LLM reads is laid out here, from the masks alone. So a
pair's result does not depend on how long the other texts of its micro-batch are.

P = question-video pairs, S = soft-prompt tokens, D = LLM width, L = text tokens, O = options,
V = vocabulary. Of a mask, 1 is a token and 0 padding.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from gcg.host import beside

IGNORED = -100


class Answerer(nn.Module, ABC):
    """A language model that reads ``prefix_ids``, the soft-prompt tokens, and the prompt's words.

    Args:
        llm: a Hugging Face model with a language modelling head.
        prefix_ids: the constant beginning of every input, such as the head of a chat's user turn.
        end_ids: tokens that end an answer; none: those that the LLM's configuration names.
    """

    def __init__(self, llm: Any, prefix_ids: Sequence[int] = (), end_ids: Sequence[int] = ()):
        super().__init__()
        self.llm = llm
        self.prefix_ids = tuple(prefix_ids)
        # Instead of what the checkpoint says of sampling.
        llm.generation_config = _greedy(llm.config, end_ids)
        ends = llm.generation_config.eos_token_id
        self.end_ids: tuple[int, ...] = tuple([ends] if isinstance(ends, int) else ends or ())

    @abstractmethod
    def loss(
        self, soft_PSD: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, answer_ids: Tensor
    ) -> Tensor:
        """L_vqa: each pair's mean cross-entropy over its answer's tokens, (P,).

        ``prompt_ids`` and ``prompt_mask`` are (P, L); ``answer_ids`` (P, L'), -100 on padding, ends
        with the token that ends an answer.
        """

    @abstractmethod
    def option_scores(
        self, soft_PSD: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, option_ids: Tensor
    ) -> Tensor:
        """Log-likelihood of every option (P, O, L'), (P, O); -inf for one that is all -100.

        The LLM's ``forward`` runs equally often whatever the inputs, as ZeRO-3 needs.
        """

    def generate(
        self, soft_PSD: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int
    ) -> Tensor:
        """Greedy answer tokens (P, L'), up to an end token, then padding."""
        embeds_PLD, mask_PL = self._prompt(soft_PSD, prompt_ids, prompt_mask)
        return self.llm.generate(
            inputs_embeds=embeds_PLD,
            attention_mask=mask_PL,
            max_new_tokens=max_new_tokens,
            synced_gpus=_is_partitioned(self.llm),
        )

    @abstractmethod
    def _prompt(self, soft_PSD: Tensor, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, Tensor]:
        """What the LLM reads before it answers: embeddings (P, L', D) and their mask."""

    def _join(self, soft_PSD: Tensor, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, Tensor]:
        """[prefix][soft][words]: embeddings (P, H + S + L, D) and their mask."""
        num_pairs, num_soft = soft_PSD.shape[:2]
        mask_PL = beside(soft_PSD, mask_PL)
        prefix = beside(soft_PSD, torch.tensor(self.prefix_ids, dtype=ids_PL.dtype))
        prefix_PH = prefix.expand(num_pairs, -1)
        # One look-up for all words: under ZeRO-3 each gathers the whole embedding.
        words = self._embed(torch.cat([prefix_PH, ids_PL], dim=1))
        head, tail = words.split([len(prefix), ids_PL.shape[1]], dim=1)
        there = mask_PL.new_ones(num_pairs, len(prefix) + num_soft)
        embeds = torch.cat([head, soft_PSD.to(words.dtype), tail], dim=1)
        return embeds, torch.cat([there, mask_PL], dim=1)

    def _embed(self, ids_PL: Tensor) -> Tensor:
        return self.llm.get_input_embeddings()(ids_PL)

    def train(self, mode: bool = True) -> Answerer:
        """As ``nn.Module.train``, but what is frozen of the LLM stays as in evaluation.

        A frozen LLM drops nothing out; with adapters, only they do.
        """
        super().train(mode)
        if not mode or all(p.requires_grad for p in self.llm.parameters()):
            return self
        self.llm.eval()
        for name, module in self.llm.named_modules():
            # Transformers checkpoints the activations of a block only if the block itself, not
            # what is in it, is in training mode.
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
                module.training = True
            if name.endswith(".lora_dropout"):
                module.train()
        return self


class Seq2SeqAnswerer(Answerer):
    """An encoder-decoder LLM: [prefix][soft][prompt] is the encoder's, the answer the decoder's."""

    def loss(
        self, soft_PSD: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, answer_ids: Tensor
    ) -> Tensor:
        embeds, mask = self._prompt(soft_PSD, prompt_ids, prompt_mask)
        logits = self.llm(
            inputs_embeds=embeds,
            attention_mask=mask,
            decoder_input_ids=self._shifted(answer_ids),
            use_cache=False,
        ).logits
        return _mean_loss(logits, answer_ids)

    def option_scores(
        self, soft_PSD: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, option_ids: Tensor
    ) -> Tensor:
        embeds, mask = self._prompt(soft_PSD, prompt_ids, prompt_mask)
        encoded = self.llm.get_encoder()(inputs_embeds=embeds, attention_mask=mask)
        num_options = option_ids.shape[1]
        labels = option_ids.flatten(0, 1)
        # The encoder runs once a question; only the short decoder runs once an option.
        states = encoded.last_hidden_state.repeat_interleave(num_options, dim=0)
        logits = self.llm(
            encoder_outputs=(states,),
            attention_mask=mask.repeat_interleave(num_options, dim=0),
            decoder_input_ids=self._shifted(labels),
            use_cache=False,
        ).logits
        return _scores(logits, labels).unflatten(0, (-1, num_options))

    def _prompt(self, soft_PSD: Tensor, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, Tensor]:
        return self._join(soft_PSD, ids_PL, mask_PL)

    def generate(
        self, soft_PSD: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, max_new_tokens: int
    ) -> Tensor:
        # What the decoder starts from is no part of the answer.
        return super().generate(soft_PSD, prompt_ids, prompt_mask, max_new_tokens)[:, 1:]

    def _shifted(self, labels_PL: Tensor) -> Tensor:
        return self.llm.prepare_decoder_input_ids_from_labels(labels=labels_PL)


class CausalAnswerer(Answerer):
    """A decoder-only LLM: one row [prefix][soft][prompt][answer], padded on the right to learn and
    on the left to answer. Positions count a row's own tokens."""

    def loss(
        self, soft_PSD: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, answer_ids: Tensor
    ) -> Tensor:
        there_PL = answer_ids != IGNORED
        shortest = int(prompt_mask.sum(dim=1).min())
        mask_PL = beside(answer_ids, prompt_mask)
        embeds, mask = self._join(
            soft_PSD,
            torch.cat([prompt_ids, answer_ids.masked_fill(~there_PL, 0)], dim=1),
            torch.cat([mask_PL, there_PL.to(mask_PL.dtype)], dim=1),
        )
        labels = F.pad(answer_ids, (embeds.shape[1] - answer_ids.shape[1], 0), value=IGNORED)
        order = mask.argsort(dim=1, descending=True, stable=True)
        embeds, _ = _reordered(embeds, mask, order)
        labels = labels.gather(1, order)
        # Logits are wide: only those from the first answer token on are computed. And no token
        # sees the padding behind it: without a mask transformers has nothing to look through, for
        # which the host would wait, and attention needs no mask in memory.
        first = len(self.prefix_ids) + soft_PSD.shape[1] + shortest
        kept = labels.shape[1] - max(first - 1, 0)
        logits = self._forward(embeds, None, kept, use_cache=False).logits
        return _mean_loss(logits[:, -kept:-1], labels[:, -kept + 1 :])

    def option_scores(
        self, soft_PSD: Tensor, prompt_ids: Tensor, prompt_mask: Tensor, option_ids: Tensor
    ) -> Tensor:
        embeds, mask = self._prompt(soft_PSD, prompt_ids, prompt_mask)
        read = self._forward(embeds, mask, 1, use_cache=True)
        num_options = option_ids.shape[1]
        labels = option_ids.flatten(0, 1)
        there = labels != IGNORED
        # The question's keys and values serve all its options.
        cache = read.past_key_values
        cache.batch_repeat_interleave(num_options)
        mask = mask.repeat_interleave(num_options, dim=0)
        answered = self._forward(
            self._embed(labels.masked_fill(~there, 0)),
            torch.cat([mask, there.to(mask.dtype)], dim=1),
            labels.shape[1],
            past_key_values=cache,
            use_cache=True,
        )
        first = read.logits[:, -1:].repeat_interleave(num_options, dim=0)
        logits = torch.cat([first, answered.logits[:, :-1]], dim=1)
        return _scores(logits, labels).unflatten(0, (-1, num_options))

    def _prompt(self, soft_PSD: Tensor, ids_PL: Tensor, mask_PL: Tensor) -> tuple[Tensor, Tensor]:
        embeds, mask = self._join(soft_PSD, ids_PL, mask_PL)
        return _reordered(embeds, mask, mask.argsort(dim=1, stable=True))

    def _forward(
        self, embeds_PLD: Tensor, mask_PL: Tensor | None, num_logits: int, **how: Any
    ) -> Any:
        """The LLM over the last columns of ``mask_PL``; at least the last ``num_logits`` logits.

        Without a mask all is read, from the first column on.
        """
        if mask_PL is not None:
            positions = (mask_PL.cumsum(dim=1) - 1).clamp(min=0)[:, -embeds_PLD.shape[1] :]
            how |= {"attention_mask": mask_PL, "position_ids": positions}
        if _keeps_logits(self.llm):
            # As indices, not a count: those copy the rows, and of a slice of rows torch's product
            # with a frozen weight copies the weight for each row of the batch.
            length = embeds_PLD.shape[1]
            how["logits_to_keep"] = torch.arange(
                length - num_logits, length, device=embeds_PLD.device
            )
        return self.llm(inputs_embeds=embeds_PLD, **how)


def build_answerer(
    llm: nn.Module, prefix_ids: Sequence[int] = (), end_ids: Sequence[int] = ()
) -> Answerer:
    """The answerer for an LLM of either kind; arguments as for :class:`Answerer`."""
    config: Any = llm.config
    kind = Seq2SeqAnswerer if config.is_encoder_decoder else CausalAnswerer
    return kind(llm, prefix_ids, end_ids)


def _greedy(llm_config: Any, end_ids: Sequence[int]) -> GenerationConfig:
    config = GenerationConfig.from_model_config(llm_config)
    named = config.eos_token_id
    ends = list(end_ids) or ([named] if isinstance(named, int) else named)
    config.update(do_sample=False, num_beams=1, eos_token_id=ends, use_cache=True)
    if config.pad_token_id is None and ends:
        config.pad_token_id = ends[0]
    return config


def _is_partitioned(llm: nn.Module) -> bool:
    """Whether ZeRO-3 spreads the LLM over ranks: all must generate until the last has finished."""
    several = dist.is_initialized() and dist.get_world_size() > 1
    return several and any(hasattr(parameter, "ds_id") for parameter in llm.parameters())


def _keeps_logits(llm: nn.Module) -> bool:
    return "logits_to_keep" in inspect.signature(type(llm).forward).parameters


def _reordered(embeds_PLD: Tensor, mask_PL: Tensor, order_PL: Tensor) -> tuple[Tensor, Tensor]:
    return embeds_PLD.take_along_dim(order_PL.unsqueeze(-1), dim=1), mask_PL.gather(1, order_PL)


def _token_losses(logits_PLV: Tensor, labels_PL: Tensor) -> Tensor:
    return F.cross_entropy(
        logits_PLV.float().transpose(1, 2), labels_PL, ignore_index=IGNORED, reduction="none"
    )


def _mean_loss(logits_PLV: Tensor, labels_PL: Tensor) -> Tensor:
    per_token = _token_losses(logits_PLV, labels_PL)
    return per_token.sum(dim=1) / (labels_PL != IGNORED).sum(dim=1).clamp(min=1)


def _scores(logits_PLV: Tensor, labels_PL: Tensor) -> Tensor:
    there = (labels_PL != IGNORED).any(dim=1)
    scores = -_token_losses(logits_PLV, labels_PL).sum(dim=1)
    return scores.masked_fill(~there, -torch.inf)
