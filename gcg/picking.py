"""The frames a question is about, mixed as the indicator says: Ê = S·E (step 6).

P = question-video pairs, V = videos, K = moments, T = frames, F = values of a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# On a CPU, where reading E is what costs: frames this large are added one by one if few are chosen.
_LARGE = 1 << 16
# A frame read for one moment costs some 2.5 times its part of a product over all T frames.
_FEW = 0.4


class Run(NamedTuple):
    """Pairs ``first`` to ``stop`` - 1, one after another, that ask about ``video``."""

    video: int
    first: int
    stop: int


def video_runs(video_index_P: Tensor) -> list[Run]:
    """Pairs grouped by video, as they lie. An index on the host makes no device wait."""
    runs: list[Run] = []
    for pair, video in enumerate(video_index_P.tolist()):
        if runs and runs[-1].video == video:
            runs[-1] = runs[-1]._replace(stop=pair + 1)
        else:
            runs.append(Run(video, pair, pair + 1))
    return runs


def pick(indicator_PKT: Tensor, frames_VT: Tensor, runs: Sequence[Run]) -> Tensor:
    """Ê = S·E: (P, K, T) and (V, T, ...) → (P, K, ...).

    Video by video into the result, so that neither E nor Ê is copied. Where frames are large and
    few are chosen, the gradient of S is formed in its non-zero places alone and is 0 elsewhere:
    these are all that the gradient of the perturbed top-K reads (``gcg.selection``).
    """
    return _Pick.apply(indicator_PKT, frames_VT, runs)  # type: ignore[return-value]


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, indicator_PKT: Tensor, frames_VT: Tensor, runs: Sequence[Run]) -> Tensor:
        indicator_PKT = indicator_PKT.to(frames_VT.dtype)
        ctx.save_for_backward(indicator_PKT, frames_VT)
        ctx.runs = runs
        ctx.cells = [_few_cells(indicator_PKT[run.first : run.stop], frames_VT) for run in runs]
        flat_VTF = frames_VT.flatten(2)
        shape = (*indicator_PKT.shape[:2], flat_VTF.shape[2])
        picked_PKF = flat_VTF.new_empty(shape)
        for run, cells in zip(runs, ctx.cells, strict=True):
            part = picked_PKF[run.first : run.stop]
            if cells is None:
                torch.matmul(indicator_PKT[run.first : run.stop], flat_VTF[run.video], out=part)
            else:
                _add_cells(part, flat_VTF[run.video], cells)
        return picked_PKF.unflatten(2, frames_VT.shape[2:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        indicator_PKT, frames_VT = ctx.saved_tensors
        grad_PKF, flat_VTF = grads[0].flatten(2), frames_VT.flatten(2)
        of_indicator = torch.zeros_like(indicator_PKT) if ctx.needs_input_grad[0] else None
        of_frames = torch.zeros_like(flat_VTF) if ctx.needs_input_grad[1] else None
        for run, cells in zip(ctx.runs, ctx.cells, strict=True):
            pairs = slice(run.first, run.stop)
            if of_indicator is not None and cells is None:
                torch.matmul(grad_PKF[pairs], flat_VTF[run.video].T, out=of_indicator[pairs])
            elif of_indicator is not None:
                for pair, k, t, _ in cells:
                    upstream = grad_PKF[run.first + pair, k]
                    of_indicator[run.first + pair, k, t] = upstream.dot(flat_VTF[run.video, t])
            if of_frames is not None:
                mixed = indicator_PKT[pairs].flatten(0, 1).T @ grad_PKF[pairs].flatten(0, 1)
                of_frames[run.video] += mixed
        return of_indicator, None if of_frames is None else of_frames.view_as(frames_VT), None


_Cell = tuple[int, int, int, float]


def _few_cells(indicator_PKT: Tensor, frames_VT: Tensor) -> list[_Cell] | None:
    """(pair, k, t, S_kt) of each non-zero place of one video's pairs, in order; None where a
    product over all frames is as good."""
    large = frames_VT[0, 0].numel() >= _LARGE and frames_VT.dtype == torch.float32
    if not large or frames_VT.device.type != "cpu":
        return None
    places = indicator_PKT.nonzero()
    if len(places) > _FEW * indicator_PKT.numel():
        return None
    shares = indicator_PKT[tuple(places.T)].tolist()
    return [(*place, share) for place, share in zip(places.tolist(), shares, strict=True)]


def _add_cells(picked_PKF: Tensor, frames_TF: Tensor, cells: Sequence[_Cell]) -> None:
    begun: set[tuple[int, int]] = set()
    for pair, k, t, share in cells:
        moment = picked_PKF[pair, k]
        if (pair, k) in begun:
            moment.add_(frames_TF[t], alpha=share)
        else:
            torch.mul(frames_TF[t], share, out=moment)
            begun.add((pair, k))
    for pair, k in set(_moments(picked_PKF)) - begun:
        picked_PKF[pair, k].zero_()


def _moments(picked_PKF: Tensor) -> list[tuple[int, int]]:
    return [(pair, k) for pair in range(picked_PKF.shape[0]) for k in range(picked_PKF.shape[1])]
