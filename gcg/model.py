"""GCG: choose the moments a question is about, then answer from them (method.md, steps 1-10).

V = videos, P = question-video pairs, T = frames, K = moments, L = text tokens, O = options,
N_I = tokens per frame, D_I = vision width, D_C = joint image-text width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gcg.answering import Answerer
from gcg.config import GCGConfig
from gcg.contrast import Candidates, Pairs
from gcg.dropout import dropout_seeds, install_sample_dropout
from gcg.encoding import Encoded, encode_frames, pooled_options, pooled_text
from gcg.generator import MomentEncoder
from gcg.host import beside
from gcg.losses import Labels
from gcg.picking import pick, video_runs
from gcg.profiles import Contrast, Profile
from gcg.reader import FrameReader
from gcg.selection import Selection, Selector
from gcg.serving import Served
from gcg.text import SentenceTower, TextTower
from gcg.vision import VisionTower


@dataclass(frozen=True)
class Grounding:
    """Where the model looks: ``weights`` p (P, T), ``centers`` mu (P, K), the ``selection``.

    ``centers`` is empty, (P, 0), where the mode has no generator. ``chosen`` Ê (P, K, N_I, D_I);
    ``every``: all frames of each pair's video (P, T, N_I, D_I), where the profile reads them.
    """

    weights: Tensor
    log_weights: Tensor
    centers: Tensor
    selection: Selection
    chosen: Tensor
    every: Tensor | None


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


class GCGModel(Served):
    """Frozen encoders, the grounding module (None where the mode needs none), and the answerer.

    ``vision`` is None where frames come as features.
    """

    def __init__(
        self,
        config: GCGConfig,
        profile: Profile,
        vision: VisionTower | None,
        text: TextTower | SentenceTower,
        generator: MomentEncoder | None,
        contrast: Contrast | None,
        selector: Selector,
        reader: FrameReader,
        answerer: Answerer,
    ) -> None:
        super().__init__()
        self.config, self.profile = config, profile
        self.vision, self.text = vision, text
        self.generator, self.contrast, self.selector = generator, contrast, selector
        self.reader, self.answerer = reader, answerer
        text.requires_grad_(False)
        if vision is not None:
            vision.requires_grad_(config.vision.train)
        install_sample_dropout(self)

    def forward(
        self,
        pixel_values: Tensor | None,
        video_index: Tensor,
        question_ids: Tensor,
        question_mask: Tensor,
        qformer_ids: Tensor,
        qformer_mask: Tensor,
        prompt_ids: Tensor,
        prompt_mask: Tensor,
        answer_ids: Tensor,
        noise_seeds: Tensor,
        contrast_group: Tensor,
        positions: Tensor,
        description_ids: Tensor | None = None,
        description_mask: Tensor | None = None,
        option_text_ids: Tensor | None = None,
        option_text_mask: Tensor | None = None,
        answer_text_ids: Tensor | None = None,
        answer_text_mask: Tensor | None = None,
        answer_index: Tensor | None = None,
        moments: Tensor | None = None,
        similarity: Tensor | None = None,
        frame_tokens: Tensor | None = None,
        frame_embeddings: Tensor | None = None,
        encoded: Encoded | None = None,
        candidates: Candidates | None = None,
    ) -> GCGOutput:
        """A training pass. Shapes are those of ``dataloaders.batch.Batch``, which has pixels or
        features.

        Pseudo-labels (step 3) come with the batch. ``encoded``: what :meth:`encode` made of it,
        where that was done before; ``candidates``: what the contrast groups hold where they reach
        beyond this micro-batch.

        The tensors of :data:`gcg.host.HOST_INPUTS` may lie on the host, whatever the model's
        device: then the host waits for nothing.
        """
        dropout_seeds(self, noise_seeds)
        if encoded is None:
            encoded = self.encode(
                pixel_values,
                question_ids,
                question_mask,
                description_ids,
                description_mask,
                option_text_ids,
                option_text_mask,
                answer_text_ids,
                answer_text_mask,
                frame_tokens,
                frame_embeddings,
            )
        found = self.ground(encoded, video_index, noise_seeds, moments)
        runs, video_index = video_runs(video_index), beside(encoded.joint, video_index)
        soft = self.reader(found.chosen, qformer_ids, qformer_mask, found.every)
        loss_vqa = self.answerer.loss(soft, prompt_ids, prompt_mask, answer_ids)
        loss_reg = loss_con = torch.zeros_like(loss_vqa)
        if self.contrast is not None:
            if moments is None or encoded.description is None:
                raise ValueError(
                    "model.mode = grounding trains on pseudo-labels and event descriptions, but "
                    "the batch has none; run `gcg label` on the training data"
                )
            labels = Labels(moments, similarity)
            loss_reg = self.profile.regression(found.centers, found.log_weights, labels)
            if candidates is None:
                # Without gradient, as where they come from other ranks: the layout must not matter.
                joint = encoded.joint.detach()
                of_pairs = positions[video_index], beside(joint, noise_seeds)
                candidates = Candidates(joint, contrast_group, positions, encoded.answer, *of_pairs)
            pairs = Pairs(
                joint=encoded.joint[video_index],
                positive=pick(found.selection.indicator, encoded.joint, runs),
                weights=found.weights,
                group=contrast_group[video_index],
                position=positions[video_index],
                seeds=noise_seeds,
                description=encoded.description,
                answer=encoded.answer,
                options=encoded.options,
                wrong=_wrong(encoded.option_mask, answer_index),
            )
            loss_con = self.contrast(pairs, candidates)
        return GCGOutput(
            loss_vqa, loss_reg, loss_con, found.weights, found.centers, found.selection.indices
        )

    def encode(
        self,
        pixel_values: Tensor | None,
        question_ids: Tensor,
        question_mask: Tensor,
        description_ids: Tensor | None = None,
        description_mask: Tensor | None = None,
        option_text_ids: Tensor | None = None,
        option_text_mask: Tensor | None = None,
        answer_text_ids: Tensor | None = None,
        answer_text_mask: Tensor | None = None,
        frame_tokens: Tensor | None = None,
        frame_embeddings: Tensor | None = None,
    ) -> Encoded:
        """Steps 1 and 2: the frozen encoders over a batch's clips, or their features, and texts."""
        tokens, joint = encode_frames(
            self.vision,
            pixel_values,
            frame_tokens,
            frame_embeddings,
            settings=self.config.vision,
            dtype=next(self.text.parameters()).dtype,  # all that is frozen has the same
        )
        with torch.no_grad():
            words, question = self.text(question_ids, question_mask)
            description = pooled_text(self.text, description_ids, description_mask)
            options = option_mask = answer = None
            texts, text_mask = words, question_mask
            if self.profile.pooled_texts:
                options, option_mask = pooled_options(self.text, option_text_ids, option_text_mask)
                answer = pooled_text(self.text, answer_text_ids, answer_text_mask)
                texts, text_mask = question.unsqueeze(1), question_mask[:, :1]
                if options is not None and option_mask is not None:
                    texts = torch.cat([texts, options], dim=1)
                    text_mask = torch.cat([text_mask, option_mask.to(text_mask.dtype)], dim=1)
        return Encoded(
            tokens, joint, question, texts, text_mask, description, options, option_mask, answer
        )

    def ground(
        self, encoded: Encoded, video_index: Tensor, noise_seeds: Tensor, moments: Tensor | None
    ) -> Grounding:
        """Steps 4, 5, 6: which frames the question is about, and their tokens Ê."""
        runs, video_index = video_runs(video_index), beside(encoded.joint, video_index)
        num_pairs, num_frames = len(video_index), encoded.joint.shape[1]
        if self.generator is None:
            log_weights = torch.zeros(num_pairs, num_frames, device=video_index.device)
            centers = log_weights.new_empty(num_pairs, 0)
        else:
            frames_PTC = encoded.joint[video_index]
            centers, log_weights = self.generator(
                frames_PTC, encoded.texts, encoded.text_mask, encoded.question
            )
        weights = log_weights.exp()
        selection = self.selector(weights, moments, noise_seeds, self.training)
        chosen = pick(selection.indicator, encoded.tokens, runs)
        every = encoded.tokens[video_index] if self.profile.spatial_tokens else None
        return Grounding(weights, log_weights, centers, selection, chosen, every)

    @torch.no_grad()
    def score_options(
        self,
        found: Grounding,
        qformer: tuple[Tensor, Tensor],
        prompt: tuple[Tensor, Tensor],
        option_ids: Tensor,
    ) -> Tensor:
        """Log-likelihood (P, O) of each option's words after the prompt. Ids come with masks."""
        soft = self.reader(found.chosen, *qformer, found.every)
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
        soft = self.reader(found.chosen, *qformer, found.every)
        return self.answerer.generate(soft, *prompt, max_new_tokens)

    def grounding_parameters(self) -> list[nn.Parameter]:
        """What learns with the grounding learning rate."""
        parts = (self.generator, self.contrast)
        return [p for part in parts if isinstance(part, nn.Module) for p in part.parameters()]

    def projection_parameters(self) -> list[nn.Parameter]:
        """What brings the Q-Former's tokens to the LLM's width."""
        return list(self.reader.projection.parameters())

    def other_trained_parameters(self) -> list[nn.Parameter]:
        """Q-Former, query tokens, projection, temporal embedding, and what else may learn."""
        parts = (self.reader, self.answerer, self.vision)
        return [
            p for part in parts if part is not None for p in part.parameters() if p.requires_grad
        ]


def _wrong(option_mask_PO: Tensor | None, answer_index_P: Tensor | None) -> Tensor | None:
    """True (P, O) on each option that is there and not the right one."""
    if option_mask_PO is None:
        return None
    if answer_index_P is None:
        raise ValueError("the batch has options but no answer_index")
    number_O = torch.arange(option_mask_PO.shape[1], device=option_mask_PO.device)
    return option_mask_PO & (number_O != answer_index_P[:, None])
