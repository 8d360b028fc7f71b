"""Contrast groups that reach beyond a micro-batch: what their visits are compared by, brought
together.

A contrast group is a block of consecutive positions of the global batch. Its visits may lie in
several micro-batches and on several ranks, so before the micro-batches of a step run, each is
encoded, and the ranks that share groups exchange the joint vectors C (profile ``released``: also
the pooled answers). That makes the loss the same for every world size and micro-batch. The
encoders' results are kept for the forward pass of the same micro-batch, so nothing is computed
twice; the price is the memory of E of all micro-batches of a step, on each rank. Where every group
fits into a micro-batch, nothing is encoded ahead, kept or exchanged.

V = visits, P = question-video pairs, T = frames, D_C = joint image-text width, W = world size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gcg.contrast import Candidates
from gcg.host import beside
from launcher.config import RunConfig

Inputs = Mapping[str, Any]


class ContrastExchange:
    """Gives each micro-batch the candidates of the groups it touches.

    Args:
        config: the run. ``torch.distributed`` must be initialised with its number of workers, and
            every rank makes this object at the same place: process groups are created.
    """

    def __init__(self, config: RunConfig) -> None:
        self._spans = groups_span(config)
        self._peers: dist.ProcessGroup | None = None
        self._num_peers = 1
        blocks = peer_blocks(config)
        if not self._spans or len(blocks[0]) == 1:
            return
        self._num_peers = len(blocks[0])
        for ranks in blocks:  # every rank must create every group, in the same order
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                assert isinstance(group, dist.ProcessGroup)
                self._peers = group

    def __call__(self, model: Any, batches: Iterable[Inputs]) -> Iterator[Inputs]:
        """The keyword arguments of each forward pass of a step, ``encoded`` and ``candidates``
        among them where groups span micro-batches.

        Args:
            model: a ``GCGModel``, unwrapped; its ``encode`` is called.
            batches: its inputs for each micro-batch, on its device.
        """
        if not self._spans:
            yield from batches
            return
        ahead = [_encoded(model, inputs) for inputs in batches]
        gathered = gather_candidates([_own(inputs) for inputs in ahead], self._peers)
        assert len(gathered.positions) == self._num_peers * sum(len(b["positions"]) for b in ahead)
        while ahead:  # E of a micro-batch is let go when its forward pass has begun
            inputs = ahead.pop(0)
            yield {**inputs, "candidates": touched(gathered, inputs["contrast_group"])}


def groups_span(config: RunConfig) -> bool:
    """Whether any contrast group reaches beyond a micro-batch."""
    data = config.data
    if config.model.mode != "grounding" or data.contrast_group == 1:
        return False
    apart = streams_per_group(config) > 1 and config.world_size > 1
    return apart or config.engine.micro_batch % data.contrast_group != 0


def streams_per_group(config: RunConfig) -> int:
    """m: how many streams a contrast group takes visits of."""
    share = config.data.global_batch // config.data.streams
    return max(1, config.data.contrast_group // share)


def peer_blocks(config: RunConfig) -> list[list[int]]:
    """The ranks, in blocks that share contrast groups.

    Rank r serves the streams c with c % W == r, a group takes m consecutive streams. So with m
    dividing W, aligned blocks of m ranks share; with W dividing m, all do. Otherwise (m = 4, W = 6)
    the blocks of consecutive groups overlap, and all ranks take part.
    """
    streams, world_size = streams_per_group(config), config.world_size
    size = streams if world_size % streams == 0 else world_size
    return [list(range(first, first + size)) for first in range(0, world_size, size)]


def gather_candidates(own: Sequence[Candidates], peers: dist.ProcessGroup | None) -> Candidates:
    """The visits and pairs of this rank's micro-batches and of its peers', by position.

    Args:
        own: of each micro-batch. Ranks have equally many visits, but not pairs.
        peers: the ranks to exchange with; None: this one alone.
    """
    whole = _joined(own)
    if peers is not None:
        whole = _exchanged(whole, peers)
    visits = whole.positions.argsort()
    # Stable: the pairs of a visit, all of one rank, stay in the order of its questions.
    pairs = whole.answer_positions.argsort(stable=True)
    return _taken(whole, visits, pairs)


def touched(candidates: Candidates, contrast_group_V: Tensor) -> Candidates:
    """Those of the groups that a micro-batch has visits of, in the same order."""
    visits = torch.isin(candidates.groups, contrast_group_V)
    pairs = torch.isin(candidates.answer_positions, candidates.positions[visits])
    return _taken(candidates, visits, pairs)


def _encoded(model: Any, inputs: Inputs) -> dict[str, Any]:
    names = inspect.signature(model.encode).parameters
    encoded = model.encode(**{name: inputs.get(name) for name in names})
    # The encoders were all that reads the frames: without them here their memory is free.
    frames = dict.fromkeys(("pixel_values", "frame_tokens", "frame_embeddings"))
    return {**inputs, **frames, "encoded": encoded}


def _own(inputs: Inputs) -> Candidates:
    encoded, positions = inputs["encoded"], inputs["positions"]
    video_index, seeds = (beside(positions, inputs[n]) for n in ("video_index", "noise_seeds"))
    return Candidates(
        encoded.joint.detach(),
        inputs["contrast_group"],
        positions,
        None if encoded.answer is None else encoded.answer.detach(),
        positions[video_index],
        seeds,
    )


def _joined(parts: Sequence[Candidates]) -> Candidates:
    answers = [part.answers for part in parts if part.answers is not None]
    return Candidates(
        torch.cat([part.joint for part in parts]),
        torch.cat([part.groups for part in parts]),
        torch.cat([part.positions for part in parts]),
        torch.cat(answers) if answers else None,
        torch.cat([part.answer_positions for part in parts]),
        torch.cat([part.answer_seeds for part in parts]),
    )


def _exchanged(own: Candidates, peers: dist.ProcessGroup) -> Candidates:
    joint, answers = _all_gather(own.joint, peers), own.answers
    visits = _all_gather(torch.stack([own.groups, own.positions], dim=1), peers)
    counts = _all_gather(own.positions.new_tensor([len(own.answer_seeds)]), peers).tolist()
    pairs = torch.stack([own.answer_positions, own.answer_seeds], dim=1)
    pairs = _all_gather_uneven(pairs, counts, peers)
    if answers is not None:
        answers = _all_gather_uneven(answers, counts, peers)
    return Candidates(joint, visits[:, 0], visits[:, 1], answers, pairs[:, 0], pairs[:, 1])


def _taken(candidates: Candidates, visits: Tensor, pairs: Tensor) -> Candidates:
    answers = candidates.answers
    return Candidates(
        candidates.joint[visits],
        candidates.groups[visits],
        candidates.positions[visits],
        None if answers is None else answers[pairs],
        candidates.answer_positions[pairs],
        candidates.answer_seeds[pairs],
    )


def _all_gather(rows: Tensor, peers: dist.ProcessGroup) -> Tensor:
    """Equally many rows of each peer, (N, ...) → (peers·N, ...), in the dtype they have."""
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size(peers))]
    dist.all_gather(parts, rows.contiguous(), group=peers)
    return torch.cat(parts)


def _all_gather_uneven(rows: Tensor, counts: list[int], peers: dist.ProcessGroup) -> Tensor:
    """Rows of each peer, ``counts`` of them, padded on the way."""
    most = max(counts)
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    parts = _all_gather(padded, peers).split(most)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
