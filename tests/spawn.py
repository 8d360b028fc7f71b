"""One spawner for every test that needs ranks: gloo on the CPU, NCCL on GPUs."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

# What a rank of a training test would spend most of its time on: importing these. DeepSpeed is
# not among them, since it reads what kind of device to use when it is imported.
PRELOADED = ["torch", "transformers", "launcher.training.job"]


def run_ranks(
    function: Callable[..., Any],
    world_size: int,
    *args: Any,
    timeout_s: float = 240,
    preloaded: bool = False,
    on_gpu: bool = False,
) -> list[Any]:
    """Call ``function(*args)`` in ``world_size`` processes joined by gloo on the CPU.

    Args:
        function: importable by name; may use ``torch.distributed``.
        preloaded: fork the ranks off one process that has imported the large libraries and done
            nothing else, seconds faster each; not for tests that measure a process's memory.
        on_gpu: each on a GPU of its own, joined by NCCL.

    Returns:
        What it returned on each rank, by rank (pickled on the way).

    Raises:
        torch.multiprocessing.ProcessRaisedException: with the traceback of the rank that failed.
        TimeoutError: the ranks took longer than ``timeout_s``.
    """
    with tempfile.TemporaryDirectory() as place:
        if preloaded:
            multiprocessing.set_forkserver_preload(PRELOADED)
        context: Any = start_processes(
            _rank_main,
            (world_size, place, on_gpu, function, args),
            world_size,
            join=False,
            start_method="forkserver" if preloaded else "spawn",
        )
        deadline = time.monotonic() + timeout_s
        while not context.join(timeout=1):
            if time.monotonic() > deadline:
                for process in context.processes:
                    process.kill()
                raise TimeoutError(f"{function.__name__}: {world_size} ranks took {timeout_s} s")
        return [pickle.loads((Path(place) / str(r)).read_bytes()) for r in range(world_size)]


def _rank_main(
    rank: int,
    world_size: int,
    place: str,
    on_gpu: bool,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    if on_gpu:
        torch.cuda.set_device(rank)
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
    torch.set_num_threads(1)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{place}/store",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=120),
    )
    try:
        result = function(*args)
        (Path(place) / str(rank)).write_bytes(pickle.dumps(result))
        dist.barrier()
    finally:
        dist.destroy_process_group()
