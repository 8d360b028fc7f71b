"""Asking a model: encoders, grounding and answerer in one call (steps 1 to 9, without labels).

V = videos, P = question-video pairs, T = frames, K = moments, O = options, L' = answer tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gcg.answering import IGNORED
from gcg.gaussian import mixture_log_weights
from gcg.host import beside
from gcg.selection import hard_topk

if TYPE_CHECKING:
    from gcg.model import GCGModel, Grounding


@dataclass(frozen=True)
class Answers:
    """What a model says to P questions.

    ``centers`` (P, K) of its Gaussians in [0, 1], (P, 0) where it has none; ``weights`` (P, T),
    where it looks, 1 at each pair's heaviest frame; ``selected`` (P, K), the frames that it answers
    from, ascending. ``option_scores`` (P, O): log-likelihood of each
    option's words, -inf where there is none; None where none was asked for. ``tokens`` (P, L'): a
    greedy answer; None where none was asked for. ``certainty`` (P,): of such an answer, the
    geometric mean of its tokens' probabilities, its end mark included; None likewise.
    """

    centers: Tensor
    weights: Tensor
    selected: Tensor
    option_scores: Tensor | None = None
    tokens: Tensor | None = None
    certainty: Tensor | None = None


@torch.no_grad()
def ask(
    model: GCGModel,
    inputs: dict[str, Any],
    *,
    max_new_tokens: int | None = None,
    certainty: bool = False,
) -> Answers:
    """Ask questions about clips.

    Args:
        model: in evaluation mode.
        inputs: tensors on the model's device (those of :mod:`gcg.host` on any), by the names of
            :class:`dataloaders.batch.Batch`: ``pixel_values`` (V, T, 3, H, W), or ``frame_tokens``
            and ``frame_embeddings``; ``video_index`` (P,); ``question_*``, ``qformer_*``,
            ``prompt_*``; ``option_ids``
            (P, O, L), which are scored where they are there; ``option_text_*`` where the profile
            reads them; in oracle mode ``moments`` (P, K), or ``description_*`` (P, L) of what
            happened, whose likest frames they then are (the labels of strategy ``topk``).
        max_new_tokens: of a greedy answer; None writes none.
        certainty: how sure it is of that answer, which takes one more pass through the LLM.
    """
    encoded = model.encode(
        inputs.get("pixel_values"),
        inputs["question_ids"],
        inputs["question_mask"],
        option_text_ids=inputs.get("option_text_ids"),
        option_text_mask=inputs.get("option_text_mask"),
        frame_tokens=inputs.get("frame_tokens"),
        frame_embeddings=inputs.get("frame_embeddings"),
        description_ids=inputs.get("description_ids"),
        description_mask=inputs.get("description_mask"),
    )
    video_index, moments = inputs["video_index"], inputs.get("moments")
    if moments is None and encoded.description is not None:
        joint = encoded.joint[beside(encoded.joint, video_index)]
        frames = F.normalize(joint.float(), dim=-1)
        event = F.normalize(encoded.description.float(), dim=-1)
        likeness = torch.einsum("ptc,pc->pt", frames, event)
        moments = hard_topk(likeness, model.config.num_moments)
    # The noise is training's alone.
    seeds = inputs.get("noise_seeds")
    found = model.ground(
        encoded, video_index, torch.zeros_like(video_index) if seeds is None else seeds, moments
    )
    qformer = inputs["qformer_ids"], inputs["qformer_mask"]
    prompt = inputs["prompt_ids"], inputs["prompt_mask"]
    scores = tokens = sure = None
    if inputs.get("option_ids") is not None:
        scores = model.score_options(found, qformer, prompt, inputs["option_ids"])
    if max_new_tokens is not None:
        tokens = model.generate(found, qformer, prompt, max_new_tokens)
        if certainty:
            labels = _until_end(tokens, model.answerer.end_ids)
            total = model.score_options(found, qformer, prompt, labels.unsqueeze(1))[:, 0]
            sure = (total / (labels != IGNORED).sum(dim=1).clamp(min=1)).exp()
    centers, weights = looked_at(model, found, moments)
    return Answers(centers, weights, found.selection.indices, scores, tokens, sure)


def looked_at(model: GCGModel, found: Grounding, moments: Tensor | None) -> tuple[Tensor, Tensor]:
    """Centres (P, K) and the mixture (P, T). In oracle mode the labels' own; in uniform mode, and
    where frames are scored without Gaussians, no centres, (P, 0); in uniform mode equal weights."""
    if model.config.mode != "oracle" or moments is None:
        return found.centers, found.weights
    timeline, frames = model.profile.timeline, model.config.num_frames
    centers = timeline.of_frames(moments, frames)
    grid = timeline.positions(frames, centers.device)
    return centers, mixture_log_weights(centers, model.profile.sigma, grid).exp()


def option_probabilities(scores_PO: Tensor) -> Tensor:
    """(P, O): how probable each option is if one of them is the answer; 0 for one that is not
    there."""
    return scores_PO.float().softmax(dim=1)


def _until_end(tokens_PL: Tensor, end_ids: tuple[int, ...]) -> Tensor:
    """Labels: the tokens up to the first end mark, and it; -100 after it."""
    ends = torch.isin(tokens_PL, tokens_PL.new_tensor(end_ids))
    after = ends.cumsum(dim=1) - ends.long() > 0
    return tokens_PL.masked_fill(after, IGNORED)
