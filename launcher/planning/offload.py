"""Where the states lie with ``engine.offload``: a worker's part of them in host memory.

Read off DeepSpeed 0.19's ``stage_1_and_2.py`` and ``stage3.py``, as :mod:`launcher.planning.states`
is, with its symbols. On a CPU device both are one memory, and offload adds copies to it.
"""

from __future__ import annotations

from dataclasses import replace

from launcher.planning.sizes import Census
from launcher.planning.states import (
    PHASES,
    TRAINING,
    Engine,
    Line,
    bucket_lines,
    gathered_lines,
    gradient_lines,
    held,
    optimizer_lines,
    share,
    state_lines,
    weight_lines,
)


def engine_lines(census: Census, engine: Engine) -> list[Line]:
    """All states of one worker; what is offloaded says ``host``."""
    if not engine.offload:
        return state_lines(census, engine)
    weights = weight_lines(census, engine)
    if "weights" in engine.offload:  # the small ones that are kept whole stay
        weights = [replace(line, host=line.kind == "weights") for line in weights]
    lines = [*weights, *gathered_lines(census, engine)]
    if "optimizer" in engine.offload:
        lines += [replace(line, host=True) for line in optimizer_lines(census, engine)]
        lines += _gradients(census, engine)
    else:
        lines += [*optimizer_lines(census, engine), *gradient_lines(census, engine)]
    return [line for line in lines if line.bytes]


def _gradients(census: Census, engine: Engine) -> list[Line]:
    """On the host 4·N_t/W that AdamW reads, for good; torch's fused one needs no more."""
    own = 4 * share(census.trained, engine.world)
    host = [Line("gradients", "own share, float32", own, PHASES, own, host=True)]
    if engine.zero == 3:
        return host + _gradients_3(census, engine)
    e, largest = engine.element, max(w.numel for w in census.weights if w.trained)
    copy = e * share(census.trained, engine.world)
    host += [
        # New weights in the engine's precision, and the largest gradient once on either side.
        Line("weights", "own share, on its way", copy, PHASES, copy, host=True),
        Line("ZeRO buffers", "largest gradient", e * largest, PHASES, e * largest, host=True),
    ]
    device = [
        Line("ZeRO buffers", "largest gradient", e * largest, PHASES, e * largest),
        Line("gradients", "norm of one, float64", 8 * largest, ("backward",), 8 * largest),
    ]
    copies = 3 if engine.cuda else 2
    if engine.zero == 1:
        until = ("forward", "backward") if engine.accumulation > 1 else ("backward",)
        device += [
            Line("gradients", "all, added up", e * census.trained, until, e * largest),
            *bucket_lines(census, engine, copies)[:1],
        ]
        return host + device
    device += bucket_lines(census, engine, copies)
    if engine.accumulates_fp32:
        device.append(Line("gradients", "own share, float32", own, held(engine), own))
    elif engine.accumulation > 1:
        host.append(Line("gradients", "of the micro-batches", own, TRAINING, own, host=True))
    return host + device


def _gradients_3(census: Census, engine: Engine) -> list[Line]:
    """The sums of gradients lie on the host, too, and each is fetched to be added to."""
    own = 4 * share(census.trained, engine.world)
    one = share(max(w.numel for w in census.weights if w.trained), engine.world)
    bucket = engine.profile["reduce_bucket_size"] * engine.element
    return [
        Line("gradients", "of the micro-batches", own, TRAINING, own, host=True),
        Line("gradients", "one's share and its norm", 12 * one, ("backward",), 8 * one),
        Line("ZeRO buffers", "reduce bucket", bucket, PHASES, bucket),
        *bucket_lines(census, engine, 1),
    ]
