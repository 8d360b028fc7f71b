"""What the workers send one another in a step: the collectives of each ZeRO stage.

Read off DeepSpeed 0.19 (``stage_1_and_2.py``, ``stage3.py``, ``partitioned_param_coordinator.py``)
and checked by counting them, and the bytes that the sockets carry (benchmarks/scaling.py). Frozen
weights are never reduced; under stage 3 they are gathered as the trained ones are, for the backward
pass only where a gradient passes through them.

W = workers, e = bytes of a weight, a = micro-batches of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.planning.sizes import Census, Weight, total
from launcher.planning.states import MAX_REUSE_DISTANCE, NF4_BYTES, Engine, share

Kind = Literal["all-reduce", "all-gather", "reduce-scatter"]

# Parts that no gradient reaches unless they learn: gathered for the forward pass alone.
ENCODERS = ("vision trunk", "joint head", "text tower")
# What ``engine.recompute`` calls the parts.
_RECOMPUTED = {"vision trunk": "vision", "Q-Former + projection": "qformer", "LLM": "llm"}
# All-reduces of a few numbers in a step: pairs and faults of the batch, the losses; of each AdamW
# group the norm of its gradients; in 16 bits whether any overflowed.
_FIGURES = 2


@dataclass(frozen=True)
class Collective:
    """The calls in a step that serve one purpose. ``bytes``: of the whole tensors, all calls
    together."""

    what: str
    kind: Kind
    calls: int
    bytes: float

    def sent(self, world: int) -> float:
        """Bytes that a worker sends for it in a ring: (W - 1)/W of what is gathered or scattered,
        twice that of what is all-reduced (Rajbhandari et al. 2020, section 7)."""
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.bytes * (world - 1) / world


def traffic(census: Census, engine: Engine) -> list[Collective]:
    """All collectives of a step; of one worker there is none."""
    if engine.world == 1:
        return []
    found = _sharded(census, engine) if engine.zero == 3 else _replicated(census, engine)
    calls = _FIGURES + len(census.groups) + (engine.element < 4)
    found.append(Collective("figures", "all-reduce", calls, 16.0 * calls))
    return [each for each in found if each.calls]


def bytes_sent(census: Census, engine: Engine) -> float:
    """Bytes that a worker sends in a step."""
    return sum(each.sent(engine.world) for each in traffic(census, engine))


def _replicated(census: Census, engine: Engine) -> list[Collective]:
    """Stage 1 all-reduces the gradients once a step, stage 2 with every micro-batch
    (``allreduce_and_scatter``), bucket by bucket; both gather the new weights, an AdamW group at a
    time, each laid out in 2·W equal pieces."""
    rounds = engine.accumulation if engine.zero == 2 else 1
    trained = [weight.numel for weight in census.weights if weight.trained]
    calls = rounds * _reduced_in(trained, engine.profile["reduce_bucket_size"])
    padded = sum(
        share(total(group), 2 * engine.world) * 2 * engine.world for group in census.groups.values()
    )
    e = engine.element
    return [
        Collective("gradients", "all-reduce", calls, rounds * e * sum(trained)),
        Collective("new weights", "all-gather", len(census.groups), e * padded),
    ]


def _sharded(census: Census, engine: Engine) -> list[Collective]:
    """Stage 3: with every micro-batch all large weights for the forward pass, those that gradients
    reach for the backward pass, the gradients scattered; after the update the small weights, which
    are kept whole, all at once (``launcher.training.engine``). Frozen weights of what is recomputed
    are let go between recomputing and the backward pass, but for a block's last ones: an upper
    bound."""
    limit = engine.profile["stage3_param_persistence_threshold"]
    bucket = engine.profile["stage3_prefetch_bucket_size"]
    large = [weight for weight in census.weights if weight.numel > limit]
    small = [weight for weight in census.weights if weight.numel <= limit]
    again = gathered_again(large, census, engine)
    anew = [
        weight
        for weight in _reached(large, census)
        if _RECOMPUTED.get(weight.part) in engine.recompute and not weight.trained
    ]
    trained = [_padded(weight, engine) for weight in census.weights if weight.trained]
    a = engine.accumulation
    found = [
        Collective(f"weights, {name}", "all-gather", a * calls, a * size)
        for name, calls, size in (
            ("forward pass", _fetched_in(large, bucket), _bytes(large, engine)),
            ("backward pass", _fetched_in(again, bucket), _bytes(again, engine)),
            ("recomputing", len(anew), _bytes(anew, engine)),  # no trace to fetch ahead by
        )
    ]
    reduced = _reduced_in(trained, engine.profile["reduce_bucket_size"])
    return [
        *found,
        Collective("gradients", "reduce-scatter", a * reduced, a * engine.element * sum(trained)),
        Collective("small weights", "all-gather", int(bool(small)), _bytes(small, engine)),
    ]


def gathered_again(large: Sequence[Weight], census: Census, engine: Engine) -> list[Weight]:
    """Weights that a backward pass gathers: those that gradients reach, but for the last ones of
    the forward pass, which DeepSpeed has kept: what is used again within
    ``stage3_max_reuse_distance`` elements is not let go, and to the turning point and back is
    twice the way. No gradient passes through a frozen embedding."""
    reuse = engine.profile.get("stage3_max_reuse_distance", MAX_REUSE_DISTANCE)
    # What is fetched ahead when the pass turns back is kept, too.
    reuse = max(reuse, 2 * engine.profile["stage3_prefetch_bucket_size"])
    way, found = 0, []
    for weight in reversed(_reached(large, census)):
        way += weight.numel
        if 2 * way > reuse:
            found.append(weight)
    return found


def _reached(weights: Sequence[Weight], census: Census) -> list[Weight]:
    """Those that a gradient passes through, or that have one."""
    parts = {part.part for part in census.parts if part.part not in ENCODERS or part.trained}
    return [each for each in weights if each.part in parts and (each.trained or not each.table)]


def _fetched_in(weights: Iterable[Weight], bucket: int) -> int:
    """Calls in which weights are gathered: as many at once as reach the bucket."""
    calls = filled = 0
    for weight in weights:
        filled += weight.numel
        if filled >= bucket:
            calls, filled = calls + 1, 0
    return calls + bool(filled)


def _reduced_in(sizes: Iterable[int], bucket: int) -> int:
    """Calls in which gradients are reduced: as many at once as fit the bucket."""
    calls = filled = 0
    for size in sizes:
        if filled and filled + size > bucket:
            calls, filled = calls + 1, 0
        filled += size
    return calls + bool(filled)


def _padded(weight: Weight, engine: Engine) -> int:
    """Elements of a weight that W equal slices hold."""
    return share(weight.numel, engine.world) * engine.world


def _bytes(weights: Iterable[Weight], engine: Engine) -> float:
    return sum(
        _padded(weight, engine) * (NF4_BYTES if weight.quantized else engine.element)
        for weight in weights
    )
