"""The grounding module as the released method is written down (docs/method.md, profile `released`).

The yardstick of `benchmarks.grounding_module`: one-hot tensors of every noise draw, the indicator
drawn anew for each use, loops over pairs and moments. Our own writing of it, from the formulas; it
borrows the weights of a ``GaussianGenerator`` and a ``HeadContrast`` so that both compute the same.

B = pairs, each with a video of its own, T = frames, K = moments, n = draws, D_C = joint width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gcg.contrast import HeadContrast
from gcg.generator import EncoderBlock, GaussianGenerator
from gcg.selection import seeded_noise

DRAWS, NOISE_SCALE = 500, 0.05
NEGATIVES = 0x5EED  # what gcg.contrast sets the seeds of the negatives' noise apart by


class Inputs(NamedTuple):
    """``texts`` (B, 1 + O, D_C): the pooled question, then the options; ``frames`` (B, T, D_C),
    ``values`` (B, T, N_I, D_I), ``answer`` (B, D_C), ``moments`` (B, K) pseudo-labels,
    ``right`` (B,) number of the right option, ``upstream`` (B, K, N_I, D_I) gradient of what is
    selected; ``seeds`` (B,) of the noise."""

    texts: Tensor
    frames: Tensor
    values: Tensor
    answer: Tensor
    moments: Tensor
    right: Tensor
    upstream: Tensor
    seeds: Tensor


class _OneHotTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights_BT: Tensor, noise_BNT: Tensor, k: int) -> Tensor:
        perturbed = weights_BT[:, None, :] + NOISE_SCALE * noise_BNT
        indices = perturbed.topk(k, dim=-1, sorted=False).indices.sort(dim=-1).values
        one_hot_BNKT = F.one_hot(indices, weights_BT.shape[1]).float()
        ctx.one_hot_BNKT, ctx.noise_BNT = one_hot_BNKT, noise_BNT
        return one_hot_BNKT.mean(dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        num_draws = ctx.noise_BNT.shape[1]
        expected_BKT = torch.einsum("bnkt,bnt->bkt", ctx.one_hot_BNKT, ctx.noise_BNT)
        gradient = torch.einsum("bkt,bkt->bt", grads[0], expected_BKT / num_draws / NOISE_SCALE)
        return gradient, None, None


def direct(
    generator: GaussianGenerator, head: HeadContrast, given: Inputs
) -> tuple[Tensor, Tensor, Tensor]:
    """What is selected (B, K, N_I, D_I), and the losses L_reg and L_con, means over the pairs."""
    num_frames, num_moments = given.frames.shape[1], given.moments.shape[1]
    centers_BK = _centers(generator, given.frames, given.texts)
    weights_BT = _mixture(centers_BK, generator.sigma, num_frames)
    loss_reg = _regression(centers_BK, given.moments, num_frames)
    loss_con = _contrast(head, given, weights_BT, num_moments)
    indicator_BKT = _drawn(weights_BT, given.seeds, num_moments)
    selected = torch.einsum("bkt,btnd->bknd", indicator_BKT, given.values)
    return selected, loss_reg, loss_con


def _drawn(weights_BT: Tensor, seeds_B: Tensor, k: int) -> Tensor:
    noise_BNT = seeded_noise(seeds_B, DRAWS, weights_BT.shape[1])
    return _OneHotTopK.apply(weights_BT, noise_BNT, k)  # type: ignore[return-value]


def _centers(own: GaussianGenerator, frames_BTC: Tensor, texts_BLC: Tensor) -> Tensor:
    table_TD, num_frames = own.positions.weight, frames_BTC.shape[1]
    kinds = own.kinds.weight
    video = own.embed(frames_BTC) + table_TD + kinds[1]
    x_BSD = torch.cat([video, own.embed(texts_BLC) + kinds[0]], dim=1)
    for block in own.blocks:
        assert isinstance(block, EncoderBlock)
        x_BSD = _block(block, x_BSD)
    video = x_BSD[:, :num_frames] + table_TD
    pooled = (own.pool(video).softmax(dim=1) * video).sum(dim=1)
    return own.centers(pooled).sigmoid()


def _block(block: EncoderBlock, x_BSD: Tensor) -> Tensor:
    """Attention with its scores written out."""
    normed = block.attention_norm(x_BSD)
    query, key, value = (
        part(normed).unflatten(-1, (block.num_heads, -1)).transpose(1, 2)
        for part in (block.query, block.key, block.value)
    )
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
    x_BSD = x_BSD + block.out(mixed)
    return x_BSD + block.ffn_out(F.gelu(block.ffn_in(block.ffn_norm(x_BSD))))


def _mixture(centers_BK: Tensor, sigma: float, num_frames: int) -> Tensor:
    """Densities, summed over the K centres, over the largest sum."""
    grid_T = torch.linspace(0, 1, num_frames)
    height = 1 / (sigma * (2 * torch.pi) ** 0.5)
    density = height * (-((grid_T - centers_BK[:, :, None]) ** 2) / (2 * sigma**2)).exp()
    total_BT = density.sum(dim=1)
    return total_BT / total_BT.max(dim=-1, keepdim=True).values


def _regression(centers_BK: Tensor, moments_BK: Tensor, num_frames: int) -> Tensor:
    frames_BK = centers_BK * (num_frames - 1)
    num_pairs, num_moments = frames_BK.shape
    order = torch.zeros(())
    for pair in range(num_pairs):
        hinges = torch.zeros(())
        for k in range(num_moments - 1):
            gap = 1 + frames_BK[pair, k] - frames_BK[pair, k + 1]
            hinges = hinges + torch.maximum(gap, torch.zeros(()))
        order = order + hinges / (num_moments - 1)
    return F.smooth_l1_loss(frames_BK, moments_BK.float()) + order / num_pairs


def _contrast(head: HeadContrast, given: Inputs, weights_BT: Tensor, num_moments: int) -> Tensor:
    num_pairs, num_frames = weights_BT.shape
    positive = _drawn(weights_BT, given.seeds, num_moments)
    unlikely = _drawn(1 - weights_BT, given.seeds ^ NEGATIVES, num_frames - num_moments)
    positive_BKH, intra = (
        _project(head, torch.einsum("bkt,btc->bkc", indicator, given.frames))
        for indicator in (positive, unlikely)
    )
    options = given.texts[:, 1:]
    wrong = torch.stack(
        [
            torch.stack([options[b, o] for o in range(options.shape[1]) if o != given.right[b]])
            for b in range(num_pairs)
        ]
    )
    others = torch.stack(
        [torch.cat([given.answer[:b], given.answer[b + 1 :]]) for b in range(num_pairs)]
    )
    answer, wrong, others = (_project(head, x) for x in (given.answer, wrong, others))
    near = torch.einsum("bkh,bh->bk", positive_BKH, answer)
    intra_BN = torch.einsum("bnh,bh->bn", intra, answer)
    wrong_BKN = torch.einsum("bkh,bnh->bkn", positive_BKH, wrong)
    others_BKN = torch.einsum("bkh,bnh->bkn", positive_BKH, others)
    target = torch.zeros(num_pairs, dtype=torch.int64)
    loss = torch.zeros(())
    for k in range(num_moments):
        logits = torch.cat([near[:, k : k + 1], intra_BN, wrong_BKN[:, k], others_BKN[:, k]], dim=1)
        loss = loss + F.cross_entropy(logits / head.temperature, target)
    return loss / num_moments


def _project(head: HeadContrast, x: Tensor) -> Tensor:
    out = head.outer(F.gelu(head.inner(x)))
    return out / out.norm(dim=-1, keepdim=True)
