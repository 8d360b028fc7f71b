"""The contrastive losses, one value a pair (step 8): the text against the frames looked at.

P = question-video pairs, V = candidate videos, T = frames, K = moments, O = options,
D_C = joint image-text width, D_H = contrast head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcg.dropout import SampleDropout
from gcg.host import beside
from gcg.selection import hard_topk, one_hot, perturbed_topk, seeded_noise

# A similarity no cosine reaches: exp() of it is 0, and unlike -inf it keeps gradients finite.
_ABSENT = -1e4
# Sets the noise of the soft negatives apart from that of the selection, which has the bare seed.
_NEGATIVES = 0x5EED


class Candidates(NamedTuple):
    """What the contrast groups of a micro-batch hold, its own visits included, in plan order.

    ``joint`` (V, T, D_C), ``groups`` (V,) and ``positions`` (V,) of the visits in the global batch;
    of their pairs (profile ``released``) ``answers`` (P', D_C), ``answer_positions`` (P',), the
    visit each belongs to, and ``answer_seeds`` (P',).
    """

    joint: Tensor
    groups: Tensor
    positions: Tensor
    answers: Tensor | None
    answer_positions: Tensor
    answer_seeds: Tensor

    def others(self, group_P: Tensor, position_P: Tensor) -> Tensor:
        """True (P, V) where a visit is another one of the pair's group."""
        return _others(group_P, position_P, self.groups, self.positions)

    def other_answers(self, group_P: Tensor, position_P: Tensor) -> Tensor:
        """True (P, P') where an answer belongs to another visit of the pair's group."""
        visit = (self.answer_positions[:, None] == self.positions).long().argmax(dim=1)
        return _others(group_P, position_P, self.groups[visit], self.answer_positions)


class Pairs(NamedTuple):
    """What the loss needs of the batch's own pairs.

    ``joint`` C of each pair's video (P, T, D_C), ``positive`` S·C (P, K, D_C), ``weights`` p
    (P, T), ``group``, ``position`` and ``seeds`` (P,); ``description`` (P, D_C); for profile
    ``released`` the pooled ``answer`` (P, D_C), ``options`` (P, O, D_C) with ``wrong`` (P, O), True
    on each option that is there and not the right one.
    """

    joint: Tensor
    positive: Tensor
    weights: Tensor
    group: Tensor
    position: Tensor
    seeds: Tensor
    description: Tensor
    answer: Tensor | None
    options: Tensor | None
    wrong: Tensor | None


@dataclass(frozen=True)
class FrameContrast:
    """Eq. 7, averaged over the K positives (profile ``paper``), in the CLIP space itself.

    Intra negatives are the frames of the pair's own video with the lowest weights; inter negatives
    are frames of the group's other videos, drawn by the pair's seed. A pair with fewer candidates
    uses those there are.
    """

    temperature: float
    num_intra: int
    num_inter: int

    def __call__(self, pairs: Pairs, candidates: Candidates) -> Tensor:
        """(P,)."""
        description = F.normalize(pairs.description.float(), dim=-1)
        positive = F.normalize(pairs.positive.float(), dim=-1)
        positive_PK = torch.einsum("pc,pkc->pk", description, positive)

        own_PT = torch.einsum("pc,ptc->pt", description, F.normalize(pairs.joint.float(), dim=-1))
        few = min(self.num_intra, own_PT.shape[1])
        lowest = pairs.weights.detach().topk(few, dim=1, largest=False).indices
        intra_PN = own_PT.gather(1, lowest)

        frames = F.normalize(candidates.joint.float(), dim=-1)
        every_PVT = torch.einsum("pc,vtc->pvt", description, frames)
        others_PV = candidates.others(pairs.group, pairs.position)
        allowed_PF = others_PV[:, :, None].expand_as(every_PVT).flatten(1)
        priority_PF = candidate_priorities(allowed_PF, pairs.seeds)
        picked = priority_PF.topk(min(self.num_inter, allowed_PF.shape[1]), dim=1)
        inter_PN = every_PVT.flatten(1).gather(1, picked.indices)
        inter_PN = inter_PN.masked_fill(picked.values < 0, _ABSENT)

        negatives_PN = torch.cat([intra_PN, inter_PN], dim=1)
        return info_nce(positive_PK, negatives_PN.unsqueeze(1), self.temperature)


class NoContrast:
    """No contrastive loss (profile ``plus``).

    Eq. 7 pulls the chosen frames towards the event description, that is, also towards the event
    that a before/after question only names: it undoes better labels (docs/log.md).
    """

    def __call__(self, pairs: Pairs, candidates: Candidates) -> Tensor:
        """(P,) zeros."""
        return torch.zeros_like(pairs.weights[:, 0])


class HeadContrast(nn.Module):
    """Profile ``released``: both sides through one shared head, then L2-normalised.

    Negatives of each of the K positives: the soft intra frames (a perturbed top-(T-K) of 1 - p)
    against the answer, and the wrong options and the other visits' answers against the positive.
    No frames of other videos. While not training the intra frames are chosen hard.
    """

    def __init__(
        self,
        joint_width: int,
        width: int,
        *,
        temperature: float,
        noise_samples: int,
        noise_scale: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.noise_samples, self.noise_scale = noise_samples, noise_scale
        self.drop = SampleDropout(dropout)
        self.inner = nn.Linear(joint_width, width, bias=False)
        self.outer = nn.Linear(width, width)

    def forward(self, pairs: Pairs, candidates: Candidates) -> Tensor:
        """(P,). Raises ValueError without the pooled answers."""
        if pairs.answer is None or candidates.answers is None:
            raise ValueError("model.profile = released: the batch has no answer texts")
        num_moments = pairs.positive.shape[1]
        intra_PNC = self._unlikely(pairs, num_moments) @ pairs.joint.float()
        parts = [pairs.answer.float().unsqueeze(1), pairs.positive.float(), intra_PNC]
        if pairs.options is not None:
            parts.append(pairs.options.float())
        # One pass, the answer first: a pair's dropout is then the same here and where another
        # pair meets the answer as a negative.
        sizes = [part.shape[1] for part in parts]
        answer, positive, intra, *options = self._project(
            torch.cat(parts, dim=1), pairs.seeds
        ).split(sizes, dim=1)
        positive_PK = (positive @ answer.transpose(1, 2)).squeeze(2)
        negatives = [(answer @ intra.transpose(1, 2)).expand(-1, num_moments, -1)]
        if options:
            assert pairs.wrong is not None
            wrong_PKO = positive @ options[0].transpose(1, 2)
            negatives.append(wrong_PKO.masked_fill(~pairs.wrong[:, None], _ABSENT))
        others = self._project(candidates.answers.float().unsqueeze(1), candidates.answer_seeds)
        other_PKA = torch.einsum("pkc,ac->pka", positive, others.squeeze(1))
        allowed_PA = candidates.other_answers(pairs.group, pairs.position)
        negatives.append(other_PKA.masked_fill(~allowed_PA[:, None], _ABSENT))
        return info_nce(positive_PK, torch.cat(negatives, dim=2), self.temperature)

    def _unlikely(self, pairs: Pairs, num_moments: int) -> Tensor:
        """Indicator (P, T-K, T) of the frames that the weights leave out."""
        num_frames = pairs.weights.shape[1]
        few = num_frames - num_moments
        left_PT = 1 - pairs.weights
        if not self.training:
            return one_hot(hard_topk(left_PT, few), num_frames)
        noise = seeded_noise(
            pairs.seeds ^ _NEGATIVES, self.noise_samples, num_frames, left_PT.device
        )
        return perturbed_topk(left_PT, noise, few, self.noise_scale, diagonal=True)

    def _project(self, vectors_PNC: Tensor, seeds_P: Tensor) -> Tensor:
        """(P, N, D_C) → (P, N, D_H) of unit length, float32."""
        dropped = self.drop(vectors_PNC.to(self.inner.weight.dtype), seeds_P)
        return F.normalize(self.outer(F.gelu(self.inner(dropped))).float(), dim=-1)


def info_nce(positive_PK: Tensor, negatives_PKN: Tensor, temperature: float) -> Tensor:
    """-log(e^(s_k/tau) / (e^(s_k/tau) + sum_n e^(s_kn/tau))), averaged over the K positives, (P,).

    Cosines: positives (P, K), negatives (P, K, N) or (P, 1, N) where all positives share them.
    """
    positive_PK = positive_PK / temperature
    negative = torch.logsumexp(negatives_PKN / temperature, dim=2)
    return (torch.logaddexp(positive_PK, negative) - positive_PK).mean(dim=1)


def candidate_priorities(allowed_PF: Tensor, seeds_P: Tensor) -> Tensor:
    """A random priority in [0, 1) for each candidate a pair may use, -1 for the others, (P, F).

    A candidate's draw belongs to its number among the pair's own candidates, not to its column:
    the pair picks the same negatives however many other groups share the micro-batch.
    """
    generator = torch.Generator()
    number_PF = (allowed_PF.long().cumsum(dim=1) - 1).clamp(min=0)
    draws = []
    for seed in seeds_P.tolist():
        generator.manual_seed(seed)
        draws.append(torch.rand(allowed_PF.shape[1], generator=generator))
    priority_PF = beside(allowed_PF, torch.stack(draws)).gather(1, number_PF)
    return priority_PF.masked_fill(~allowed_PF, -1.0)


def _others(group_P: Tensor, position_P: Tensor, groups_V: Tensor, positions_V: Tensor) -> Tensor:
    return (group_P[:, None] == groups_V) & (position_P[:, None] != positions_V)
