"""The grounding losses, one value a pair (steps 7 and 8, profile ``paper``).

P = question-video pairs, V = videos, T = frames, K = moments, D_C = joint image-text width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gcg.gaussian import label_positions

# A similarity no cosine reaches: exp() of it is 0, and unlike -inf it keeps gradients finite.
_ABSENT = -1e4


def regression_loss(centers_PK: Tensor, moments_PK: Tensor, num_frames: int, beta: float) -> Tensor:
    """L_reg = sum_k SmoothL1(mu_k - w_k/T), (P,). Labels are sorted in time, centres as given."""
    target = label_positions(moments_PK, num_frames)
    return F.smooth_l1_loss(centers_PK.float(), target, beta=beta, reduction="none").sum(dim=1)


def contrastive_loss(
    description_PC: Tensor,
    positives_PKC: Tensor,
    frames_VTC: Tensor,
    weights_PT: Tensor,
    video_index_P: Tensor,
    other_videos_PV: Tensor,
    seeds_P: Tensor,
    *,
    temperature: float,
    num_intra: int,
    num_inter: int,
) -> Tensor:
    """Eq. 7, averaged over the K positives, (P,).

    ``positives_PKC`` are the selected frames S·C; ``other_videos_PV`` is True where a video may
    serve as a negative of a pair (same contrast group, another video). Intra negatives are the
    frames of the pair's own video with the lowest weights; inter negatives are frames of the other
    videos, drawn by the pair's seed. A pair with fewer candidates uses those there are.
    """
    description = F.normalize(description_PC.float(), dim=-1)
    positives = F.normalize(positives_PKC.float(), dim=-1)
    frames = F.normalize(frames_VTC.float(), dim=-1)
    num_frames = frames.shape[1]
    positive_PK = torch.einsum("pc,pkc->pk", description, positives)
    every_PVT = torch.einsum("pc,vtc->pvt", description, frames)

    own_PT = every_PVT.gather(1, video_index_P[:, None, None].expand(-1, 1, num_frames)).squeeze(1)
    lowest = weights_PT.detach().topk(min(num_intra, num_frames), dim=1, largest=False).indices
    intra_PN = own_PT.gather(1, lowest)

    allowed_PF = other_videos_PV[:, :, None].expand_as(every_PVT).flatten(1)
    priority_PF = candidate_priorities(allowed_PF, seeds_P)
    picked = priority_PF.topk(min(num_inter, allowed_PF.shape[1]), dim=1)
    inter_PN = every_PVT.flatten(1).gather(1, picked.indices)
    inter_PN = inter_PN.masked_fill(picked.values < 0, _ABSENT)

    negatives_PN = torch.cat([intra_PN, inter_PN], dim=1) / temperature
    negative_P1 = torch.logsumexp(negatives_PN, dim=1, keepdim=True)
    positive_PK = positive_PK / temperature
    return (torch.logaddexp(positive_PK, negative_P1) - positive_PK).mean(dim=1)


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
    priority_PF = torch.stack(draws).to(allowed_PF.device).gather(1, number_PF)
    return priority_PF.masked_fill(~allowed_PF, -1.0)
