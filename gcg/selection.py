"""Which K of the T frames go to the LLM (step 6): perturbed top-K while training, hard otherwise.

P = question-video pairs, T = frames, K = moments, n = noise draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Selection:
    """``indicator`` (P, K, T): row k is how much of each frame moment k takes, summing to 1;
    ``indices`` (P, K): the hard choice, ascending."""

    indicator: Tensor
    indices: Tensor


class _PerturbedTopK(torch.autograd.Function):
    """Perturbed maximum (Berthet et al. 2020) of the K largest, without the one-hot tensor.

    The indicator is a histogram of the chosen indices, and products with a one-hot are gathers.
    """

    @staticmethod
    def forward(
        ctx: Any, weights_PT: Tensor, noise_PNT: Tensor, k: int, scale: float, diagonal: bool
    ) -> Tensor:
        num_pairs, num_draws, num_frames = noise_PNT.shape
        perturbed = weights_PT.unsqueeze(1) + scale * noise_PNT
        indices_PNK = perturbed.topk(k, dim=-1, sorted=False).indices.sort(dim=-1).values
        slots = indices_PNK + num_frames * torch.arange(k, device=indices_PNK.device)
        ones = weights_PT.new_ones(1, 1).expand(num_pairs, num_draws * k)
        counts = weights_PT.new_zeros(num_pairs, k * num_frames)
        counts.scatter_add_(1, slots.flatten(1), ones)
        ctx.save_for_backward(indices_PNK, noise_PNT)
        ctx.scale, ctx.diagonal = scale, diagonal
        return (counts / num_draws).view(num_pairs, k, num_frames)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        indices_PNK, noise_PNT = ctx.saved_tensors
        (grad_PKT,) = grads
        share = 1.0 / (noise_PNT.shape[1] * ctx.scale)
        if ctx.diagonal:
            # Sums of hundreds of draws that nearly cancel: in float32 their order would be seen.
            chosen_PKN = noise_PNT.gather(2, indices_PNK).transpose(1, 2).double()
            noise_PKT = torch.zeros_like(grad_PKT, dtype=torch.float64)
            noise_PKT.scatter_add_(2, indices_PNK.transpose(1, 2), chosen_PKN)
            gradient = (grad_PKT * noise_PKT).sum(dim=1).to(noise_PNT.dtype)
        else:
            chosen_PNK = grad_PKT.gather(2, indices_PNK.transpose(1, 2)).transpose(1, 2)
            gradient = torch.einsum("pn,pnt->pt", chosen_PNK.sum(dim=2), noise_PNT)
        return gradient * share, None, None, None, None


def perturbed_topk(
    weights_PT: Tensor, noise_PNT: Tensor, k: int, scale: float, *, diagonal: bool = False
) -> Tensor:
    """Differentiable indicator S (P, K, T) of the K largest weights, rows ordered in time.

    ``noise_PNT`` holds n standard-normal draws a pair, ``scale`` their standard deviation. The
    gradient of an upstream G is ``mean_n(<G, onehot_n> z_n) / scale``, the perturbed optimizer's.
    ``diagonal`` keeps only the terms of it where the drawn frame is the one whose weight moves,
    ``mean_n(sum_k G onehot_n z_n) / scale``, as the authors' released code does.
    """
    return _PerturbedTopK.apply(  # type: ignore[return-value]
        weights_PT, noise_PNT, k, scale, diagonal
    )


def hard_topk(weights_PT: Tensor, k: int) -> Tensor:
    """Indices (P, K) of the K largest weights, ascending; of equals the earlier frame."""
    order = weights_PT.argsort(dim=-1, descending=True, stable=True)
    return order[:, :k].sort(dim=-1).values


def seeded_noise(
    seeds_P: Tensor, num_draws: int, num_frames: int, device: torch.device | None = None
) -> Tensor:
    """Standard-normal draws (P, n, T) on ``device`` (the seeds'), each pair's from its own seed.

    Drawn on the host, so that a pair's noise depends neither on its place in the batch, nor on the
    rank, nor on the kind of device.
    """
    generator = torch.Generator()
    draws = []
    for seed in seeds_P.tolist():
        generator.manual_seed(seed)
        draws.append(torch.randn(num_draws, num_frames, generator=generator))
    return torch.stack(draws).to(device or seeds_P.device, non_blocking=True)


class Selector(Protocol):
    """Chooses frames from the weights, the pseudo-labels, or neither: one object a mode."""

    def __call__(
        self, weights_PT: Tensor, moments_PK: Tensor | None, seeds_P: Tensor, training: bool
    ) -> Selection: ...


@dataclass(frozen=True)
class GroundingSelector:
    """The K frames the weights point at; differentiable while training."""

    num_moments: int
    noise_samples: int
    noise_scale: float
    diagonal: bool = False

    def __call__(
        self, weights_PT: Tensor, moments_PK: Tensor | None, seeds_P: Tensor, training: bool
    ) -> Selection:
        indices = hard_topk(weights_PT, self.num_moments)
        if not training:
            return Selection(one_hot(indices, weights_PT.shape[1]), indices)
        noise = seeded_noise(seeds_P, self.noise_samples, weights_PT.shape[1], weights_PT.device)
        soft = perturbed_topk(
            weights_PT, noise, self.num_moments, self.noise_scale, diagonal=self.diagonal
        )
        return Selection(soft, indices)


@dataclass(frozen=True)
class UniformSelector:
    """K evenly spaced frames, the middle of each K-th of the clip: the baseline."""

    num_moments: int

    def __call__(
        self, weights_PT: Tensor, moments_PK: Tensor | None, seeds_P: Tensor, training: bool
    ) -> Selection:
        num_pairs, num_frames = weights_PT.shape
        steps = 2 * torch.arange(self.num_moments, device=weights_PT.device) + 1
        indices = (steps * num_frames // (2 * self.num_moments)).expand(num_pairs, -1)
        return Selection(one_hot(indices, num_frames), indices)


@dataclass(frozen=True)
class OracleSelector:
    """The pseudo-label frames, at evaluation too: an upper bound that has seen the answer."""

    num_moments: int

    def __call__(
        self, weights_PT: Tensor, moments_PK: Tensor | None, seeds_P: Tensor, training: bool
    ) -> Selection:
        if moments_PK is None:
            raise ValueError(
                "model.mode = oracle: the batch has no pseudo-labels; label this split first "
                "(gcg label)"
            )
        return Selection(one_hot(moments_PK, weights_PT.shape[1]), moments_PK)


def one_hot(indices_PK: Tensor, num_frames: int) -> Tensor:
    """Float32 indicator (P, K, T) of hard indices."""
    return F.one_hot(indices_PK, num_frames).float()
