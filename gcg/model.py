"""GCG: choose the moments a question is about, then answer from them (method.md, steps 1-10).

V = videos, P = question-video pairs, T = frames, K = moments, L = text tokens, O = options,
N_I = tokens per frame, D_I = vision width, D_C = joint image-text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gcg.answering import Answerer, FrameReader
from gcg.config import GCGConfig
from gcg.gaussian import mixture_weights
from gcg.generator import GaussianGenerator
from gcg.losses import contrastive_loss, regression_loss
from gcg.selection import Selection, Selector
from gcg.text import TextTower
from gcg.vision import VisionTower, frames_through


@dataclass(frozen=True)
class Grounding:
    """Where the model looks: ``weights`` p (P, T), ``centers`` mu (P, K), the ``selection``.

    ``centers`` is empty, (P, 0), where the mode has no generator. ``joint`` is C (V, T, D_C),
    ``chosen`` Ê (P, K, N_I, D_I).
    """

    weights: Tensor
    centers: Tensor
    selection: Selection
    joint: Tensor
    chosen: Tensor


class GCGOutput(NamedTuple):
    """Losses of each pair, (P,), and where the model looked.

    A named tuple: DeepSpeed looks for tensors in tuples, not in dataclasses.
    """

    loss_vqa: Tensor
    loss_reg: Tensor
    loss_con: Tensor
    weights: Tensor
    centers: Tensor
    selected: Tensor


class GCGModel(nn.Module):
    """Frozen encoders, the grounding module (None where the mode needs none), and the answerer."""

    def __init__(
        self,
        config: GCGConfig,
        vision: VisionTower,
        text: TextTower,
        generator: GaussianGenerator | None,
        selector: Selector,
        reader: FrameReader,
        answerer: Answerer,
    ) -> None:
        super().__init__()
        self.config = config
        self.vision, self.text = vision, text
        self.generator, self.selector = generator, selector
        self.reader, self.answerer = reader, answerer
        for frozen in (vision, text, *(() if config.llm.train else (answerer.llm,))):
            frozen.requires_grad_(False)

    def forward(
        self,
        pixel_values: Tensor,
        video_index: Tensor,
        question_ids: Tensor,
        question_mask: Tensor,
        qformer_ids: Tensor,
        qformer_mask: Tensor,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        noise_seeds: Tensor,
        contrast_group: Tensor,
        answer_ids: Tensor,
        description_ids: Tensor | None = None,
        description_mask: Tensor | None = None,
        moments: Tensor | None = None,
    ) -> GCGOutput:
        """One training pass. Shapes are those of ``dataloaders.batch.Batch``.

        Steps 1, 2, 4-6 happen in :meth:`ground`; pseudo-labels (step 3) come with the batch.
        """
        found = self.ground(
            pixel_values, video_index, question_ids, question_mask, noise_seeds, moments
        )
        soft = self.reader(found.chosen, qformer_ids, qformer_mask)
        loss_vqa = self.answerer.loss(soft, prompt_ids, prompt_mask, answer_ids)
        loss_reg = loss_con = torch.zeros_like(loss_vqa)
        if self.generator is not None:
            if moments is None or description_ids is None or description_mask is None:
                raise ValueError(
                    "model.mode = grounding trains on pseudo-labels and event descriptions, but "
                    "the batch has none; run `gcg label` on the training data"
                )
            cfg = self.config.loss
            loss_reg = regression_loss(found.centers, moments, self.config.num_frames, cfg.reg_beta)
            with torch.no_grad():
                description = self.text(description_ids, description_mask)[1]
            loss_con = contrastive_loss(
                description,
                pick(found.selection.indicator, found.joint, video_index),
                found.joint,
                found.weights,
                video_index,
                _other_videos(video_index, contrast_group),
                noise_seeds,
                temperature=cfg.temperature,
                num_intra=cfg.num_intra,
                num_inter=cfg.num_inter,
            )
        return GCGOutput(
            loss_vqa, loss_reg, loss_con, found.weights, found.centers, found.selection.indices
        )

    def ground(
        self,
        pixel_values: Tensor,
        video_index: Tensor,
        question_ids: Tensor,
        question_mask: Tensor,
        noise_seeds: Tensor,
        moments: Tensor | None,
    ) -> Grounding:
        """Steps 1, 2, 4, 5, 6: which frames the question is about, and their tokens Ê."""
        dtype = next(self.vision.parameters()).dtype
        tokens_VTND, joint_VTC = frames_through(self.vision, pixel_values.to(dtype))
        num_pairs, num_frames = len(video_index), pixel_values.shape[1]
        if self.generator is None:
            weights = torch.ones(num_pairs, num_frames, device=pixel_values.device)
            centers = weights.new_empty(num_pairs, 0)
        else:
            with torch.no_grad():
                words_PLC, question_PC = self.text(question_ids, question_mask)
            frames_PTC = joint_VTC[video_index]
            centers = self.generator(frames_PTC, words_PLC, question_mask, question_PC)
            weights = mixture_weights(centers, self.config.grounding.sigma, num_frames)
        selection = self.selector(weights, moments, noise_seeds, self.training)
        chosen = pick(selection.indicator, tokens_VTND, video_index)
        return Grounding(weights, centers, selection, joint_VTC, chosen)

    @torch.no_grad()
    def score_options(
        self,
        found: Grounding,
        qformer: tuple[Tensor, Tensor],
        prompt: tuple[Tensor, Tensor],
        option_ids: Tensor,
    ) -> Tensor:
        """Log-likelihood (P, O) of each option's words after the prompt. Ids come with masks."""
        soft = self.reader(found.chosen, *qformer)
        return self.answerer.option_scores(soft, *prompt, option_ids)

    @torch.no_grad()
    def generate(
        self,
        found: Grounding,
        qformer: tuple[Tensor, Tensor],
        prompt: tuple[Tensor, Tensor],
        max_new_tokens: int,
    ) -> Tensor:
        """Greedy answer tokens (P, L'). Ids come with masks."""
        soft = self.reader(found.chosen, *qformer)
        return self.answerer.generate(soft, *prompt, max_new_tokens)

    def grounding_parameters(self) -> list[nn.Parameter]:
        """What learns with the grounding learning rate."""
        return [] if self.generator is None else list(self.generator.parameters())

    def other_trained_parameters(self) -> list[nn.Parameter]:
        """Q-Former, query tokens, projection, temporal embedding, and the LLM where it learns."""
        parts = [*self.reader.parameters(), *self.answerer.parameters()]
        return [parameter for parameter in parts if parameter.requires_grad]


def pick(indicator_PKT: Tensor, frames_VT: Tensor, video_index_P: Tensor) -> Tensor:
    """Ê = S·E: (P, K, T) and (V, T, ...) → (P, K, ...).

    Video by video, so that E is never copied once per question.
    """
    parts, order = [], []
    for video, frames in enumerate(frames_VT):
        pairs = (video_index_P == video).nonzero().squeeze(1)
        flat = frames.flatten(1)
        chosen = indicator_PKT[pairs].to(flat.dtype) @ flat
        parts.append(chosen.unflatten(-1, frames.shape[1:]))
        order.append(pairs)
    return torch.cat(parts)[torch.cat(order).argsort()]


def _other_videos(video_index_P: Tensor, contrast_group_V: Tensor) -> Tensor:
    """True (P, V) where a video is another one of the pair's contrast group."""
    own = torch.arange(len(contrast_group_V), device=video_index_P.device)
    same_group = contrast_group_V[video_index_P][:, None] == contrast_group_V
    return same_group & (video_index_P[:, None] != own)
