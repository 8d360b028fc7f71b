"""Whether processes reach each other: gloo between two on the CPU, NCCL between all GPUs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from launcher.doctor.finding import Finding, Options


def gloo(options: Options) -> Iterator[Finding]:
    _sum_over_ranks("gloo", 2)
    yield Finding("gloo", "ok", "two processes add up a tensor")


def nccl(options: Options) -> Iterator[Finding]:
    import torch
    import torch.cuda.nccl
    import torch.distributed as dist

    why = "It carries gradients and ZeRO's shards between GPUs; without it no run uses several."
    if not torch.cuda.is_available():
        yield Finding(
            "nccl",
            "failed" if options.gpu else "missing",
            "no GPU that torch can use",
            why + " On CPUs gloo takes its place.",
            "see gpu above" if options.gpu else "nothing to do on a machine without GPUs",
        )
        return
    if not dist.is_nccl_available():
        yield Finding("nccl", "failed", "torch is built without it", why, "install its CUDA build")
        return
    count = torch.cuda.device_count()
    version = ".".join(map(str, torch.cuda.nccl.version()))
    _sum_over_ranks("nccl", count)
    yield Finding("nccl", "ok", f"{version}: {count} of {count} GPUs add up a tensor")


def _sum_over_ranks(backend: str, world_size: int) -> None:
    """A sum over ranks with a known result, a process each; raises what a rank raises."""
    from torch.multiprocessing.spawn import spawn

    with tempfile.TemporaryDirectory(prefix="gcg-doctor-") as folder:
        spawn(_rank, (backend, world_size, folder), nprocs=world_size)


def _rank(rank: int, backend: str, world_size: int, folder: str) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", rank)
        torch.cuda.set_device(device)
    store = torch.distributed.FileStore(  # type: ignore[attr-defined]
        str(Path(folder, "store")), world_size
    )
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    try:
        values = torch.full((1024,), float(rank + 1), device=device)
        dist.all_reduce(values)
        expected = world_size * (world_size + 1) / 2
        if not bool((values == expected).all()):
            raise RuntimeError(f"{backend}: rank {rank} got {values[0].item()}, not {expected}")
    finally:
        dist.destroy_process_group()
