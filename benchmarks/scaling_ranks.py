"""One rank's part of ``benchmarks.scaling``: train some steps as a worker does, and measure.

Wire: bytes by socket and collectives by call, of the last step. Step: the shortest of those after
the third, from which on ZeRO-3 knows the order of its weights. Then one checkpoint, and what this
machine's links and products take, measured by all ranks at the same time. Machines are shared, and
whatever else runs only makes things slower: so each is the best of several.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WARM = 3
# Bytes of the tensors that the links are measured with.
_PROBE = 2**25


@dataclass
class Measured:
    """One rank's figures: bytes, calls by kind, seconds."""

    sent: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    step: float = 0.0
    steps: list[float] = field(default_factory=list)
    wait: float = 0.0
    checkpoint: int = 0
    stall: float = 0.0
    write: float = 0.0
    flops: float = 0.0
    tflops: float = 0.0
    bandwidth: float = 0.0
    delay: float = 0.0
    disk: float = 0.0


def train(run: dict[str, Any], steps: int, own: dict[str, int]) -> Measured:
    """Steps of a run on this rank.

    Args:
        own: settings of ZeRO in place of the profile's. By those a model of less than 10^9
            elements is never let go between forward and backward pass.
    """
    from benchmarks.wire import bytes_sent, counted

    with counted() as collectives:
        from launcher.config import parse_run_config
        from launcher.training.engine import import_deepspeed
        from launcher.training.job import build_job, restore
        from launcher.training.loop import next_batch

        config = parse_run_config(run)
        import_deepspeed(use_gpu=False)
        _set(own)
        job = build_job(config, report=lambda figures: None)
        found = Measured()
        try:
            restore(job)
            for done in range(WARM + steps):
                collectives.clear()
                before, began = bytes_sent(), time.monotonic()
                turn = next_batch(job)
                got = time.monotonic()
                job.step(turn.batch.micro, done, turn.num_pairs)
                ended = time.monotonic()
                found.sent = bytes_sent() - before
                if done >= WARM:
                    found.steps.append(ended - got)
                    found.wait += (got - began) / steps
            found.step = min(found.steps)
            found.flops = job.cost(turn.batch.micro)
            found.calls, found.bytes = dict(collectives.calls), dict(collectives.bytes)
            _checkpoint(job, WARM + steps, found)
            found.tflops = (job.peak.tflops or 0.0) / config.world_size
            _links(found)
            found.disk = _disk(Path(run["run"]["storage"]) / f"probe-{job.folder.root.name}")
        finally:
            job.close()
    return found


def _set(own: dict[str, int]) -> None:
    from launcher.training import engine

    plain = engine.engine_profile

    def changed(config: Any) -> dict[str, Any]:
        profile = plain(config)
        profile["zero_optimization"].update(own)
        return profile

    engine.engine_profile = changed


def _checkpoint(job: Any, step: int, found: Measured) -> None:
    """Two saves: the first touches its memory for the first time, the second is measured."""
    import torch.distributed as dist

    from launcher.checkpoints.commit import checkpoint_path
    from launcher.checkpoints.keeper import Position

    for number in (step, step + 1):
        dist.barrier()
        began = time.monotonic()
        job.keeper.save(Position(number, job.loader.state_dict()))
        found.stall = time.monotonic() - began
        job.keeper.wait()
        found.write = time.monotonic() - began - found.stall
    rank = dist.get_rank()
    path = checkpoint_path(job.folder, step + 1, job.attempt)
    mine = [
        file for file in path.rglob("*.pt")
        if f"pp_rank_{rank}_" in file.name
        or file.name == f"rank-{rank:05d}.pt"
        or (rank == 0 and file.name.startswith("mp_rank_"))
    ]  # fmt: skip
    found.checkpoint = sum(file.stat().st_size for file in mine)


def _links(found: Measured) -> None:
    """Bytes a second of a ring of gloo's, and seconds of a collective that carries nothing."""
    import torch
    import torch.distributed as dist

    world = dist.get_world_size()
    if world == 1:
        return
    own = torch.zeros(_PROBE // 4 // world)
    whole = torch.zeros(len(own) * world)
    one, all_of_them = torch.zeros(1), torch.zeros(world)
    rates, delays = [], []
    for _ in range(5):
        dist.barrier()
        began = time.monotonic()
        dist.all_gather_into_tensor(whole, own)
        rates.append(4 * (len(whole) - len(own)) / (time.monotonic() - began))
        began = time.monotonic()
        for _ in range(20):
            dist.all_gather_into_tensor(all_of_them, one)
        delays.append((time.monotonic() - began) / 20)
    found.bandwidth, found.delay = max(rates), min(delays)


def _disk(place: Path) -> float:
    """Bytes a second that this rank writes, as a checkpoint's files are: with torch.save, to the
    disk for good, and with their checksum; all ranks at the same time."""
    import torch
    import torch.distributed as dist

    from launcher.checkpoints.commit import describe

    file = place.with_name(f"{place.name}-{dist.get_rank()}.pt")
    content, rates = torch.rand(_PROBE // 4), []
    for _ in range(3):
        dist.barrier()
        began = time.monotonic()
        torch.save(content, file)
        describe(file)
        rates.append(_PROBE / (time.monotonic() - began))
    file.unlink()
    return max(rates)
