"""Throughput of the training loader from an S3 server with latency against a local folder.

    python -m benchmarks.remote_reading [--latency-ms 50] [--videos 240] [--shards 24] [--runs 5]

Clips are made, packed and uploaded to a real S3 server on loopback, in a process of its own, behind
a proxy that waits before each answer. Both sides decode the same batches of one epoch; they take
turns, each remote run with an empty cache. The first block of shards is not timed: the rest, in
which every shard is fetched while others are read, is the steady state. Printed are the medians of
clips a second and their ratio.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

from dataloaders.fetch import HostDecoder
from dataloaders.loader import Loader
from dataloaders.manifest import read_manifest
from dataloaders.moments.corpus import make_corpus
from dataloaders.open_source import open_source
from dataloaders.plan import Plan
from dataloaders.shards import pack
from dataloaders.storage.options import StorageOptions
from tests.dataloaders.s3_server import s3_server
from tests.dataloaders.shard_fixtures import collator

SIZE = 224


def serve(folder: Path, latency_s: float, pipe: Connection) -> None:
    """Upload a folder, say where it is, and answer until the pipe closes."""
    with s3_server() as s3:
        url = s3.upload(folder, "bench")
        s3.proxy.latency_s = latency_s
        pipe.send((url, s3.env()))
        with suppress(EOFError):
            pipe.recv()


@contextmanager
def server(folder: Path, latency_s: float) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(folder, latency_s, theirs))
    process.start()
    theirs.close()
    try:
        url, env = ours.recv()
        os.environ.update(env)
        yield url
    finally:
        ours.close()
        process.join()


def clips_per_second(place: str, storage: StorageOptions, frames: int) -> float:
    """Of one epoch, without the first block of shards."""
    with open_source(place, storage) as source:
        plan = Plan.for_source(
            source, seed=1, num_streams=1, global_batch=4, questions_per_visit=64, block_shards=4
        )
        first_block = sum(source.shards[i].num_samples for i in plan.stream_shards(0)[0][:4])
        skip, steps = -(-first_block // 4), plan.steps_per_epoch(0)
        decoder = HostDecoder(SIZE)
        with Loader(source, plan, collator(), decoder, num_frames=frames) as loader:
            for _ in range(skip):
                next(loader)
            began = time.perf_counter()
            for _ in range(steps - skip):
                next(loader)
            return (steps - skip) * 4 / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=50.0)
    parser.add_argument("--videos", type=int, default=240)
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    say = sys.stdout.write
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        manifests = make_corpus(root / "raw", num_videos=args.videos, questions_per_video=6)
        rows = list(read_manifest(manifests["train"]))
        pack(rows, root / "packed", root=root / "raw", min_shards=args.shards, verify=False)
        with server(root / "packed", args.latency_ms / 1e3) as url:
            near, far = [], []
            for run in range(args.runs):
                storage = StorageOptions(cache_dir=root / f"cache-{run}")
                near.append(clips_per_second(str(root / "packed"), storage, args.frames))
                far.append(clips_per_second(url, storage, args.frames))
                say(f"run {run}: local {near[-1]:.1f}, S3 {far[-1]:.1f} clips/s\n")
    local, remote = statistics.median(near), statistics.median(far)
    say(f"median of {args.runs}: local {local:.1f}, S3 at {args.latency_ms:g} ms {remote:.1f} ")
    ratios = statistics.median(b / a for a, b in zip(near, far, strict=True))
    say(f"clips/s; ratio of medians {remote / local:.3f}, median of ratios {ratios:.3f}\n")


if __name__ == "__main__":
    main()
