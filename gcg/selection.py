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

    The indicator is a histogram of the chosen indices. In the gradient
    ``mean_n(<grad, onehot_n> z_n) / scale`` the inner product is a gather at those indices.
    """

    @staticmethod
    def forward(ctx: Any, weights_PT: Tensor, noise_PNT: Tensor, k: int, scale: float) -> Tensor:
        num_pairs, num_draws, num_frames = noise_PNT.shape
        perturbed = weights_PT.unsqueeze(1) + scale * noise_PNT
        indices_PNK = perturbed.topk(k, dim=-1).indices.sort(dim=-1).values
        slots = indices_PNK + num_frames * torch.arange(k, device=indices_PNK.device)
        ones = weights_PT.new_full((1, 1), 1.0 / num_draws).expand(num_pairs, num_draws * k)
        indicator = weights_PT.new_zeros(num_pairs, k * num_frames)
        indicator.scatter_add_(1, slots.flatten(1), ones)
        ctx.save_for_backward(indices_PNK, noise_PNT)
        ctx.scale = scale
        return indicator.view(num_pairs, k, num_frames)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        indices_PNK, noise_PNT = ctx.saved_tensors
        (grad_PKT,) = grads
        chosen = grad_PKT.gather(2, indices_PNK.transpose(1, 2))  # (P, K, n)
        per_draw_PN = chosen.sum(dim=1) / (noise_PNT.shape[1] * ctx.scale)
        return torch.einsum("pn,pnt->pt", per_draw_PN, noise_PNT), None, None, None


def perturbed_topk(weights_PT: Tensor, noise_PNT: Tensor, k: int, scale: float) -> Tensor:
    """Differentiable indicator S (P, K, T) of the K largest weights, rows ordered in time.

    ``noise_PNT`` holds n standard-normal draws a pair, ``scale`` their standard deviation.
    """
    return _PerturbedTopK.apply(weights_PT, noise_PNT, k, scale)  # type: ignore[return-value]


def hard_topk(weights_PT: Tensor, k: int) -> Tensor:
    """Indices (P, K) of the K largest weights, ascending; of equals the earlier frame."""
    order = weights_PT.argsort(dim=-1, descending=True, stable=True)
    return order[:, :k].sort(dim=-1).values


def seeded_noise(seeds_P: Tensor, num_draws: int, num_frames: int) -> Tensor:
    """Standard-normal draws (P, n, T), each pair's from its own seed.

    Drawn on the CPU, so that a pair's noise depends neither on its place in the batch, nor on the
    rank, nor on the kind of device.
    """
    generator = torch.Generator()
    draws = []
    for seed in seeds_P.tolist():
        generator.manual_seed(seed)
        draws.append(torch.randn(num_draws, num_frames, generator=generator))
    return torch.stack(draws).to(seeds_P.device)


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

    def __call__(
        self, weights_PT: Tensor, moments_PK: Tensor | None, seeds_P: Tensor, training: bool
    ) -> Selection:
        indices = hard_topk(weights_PT, self.num_moments)
        if not training:
            return Selection(one_hot(indices, weights_PT.shape[1]), indices)
        noise = seeded_noise(seeds_P, self.noise_samples, weights_PT.shape[1])
        soft = perturbed_topk(weights_PT, noise, self.num_moments, self.noise_scale)
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
