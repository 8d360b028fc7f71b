"""CPU seconds of the host decoder against a sequential PyAV decode of the same frames.

    python -m benchmarks.decode CLIP [CLIP ...] [--frames 32] [--runs 5]

The two take turns, clip by clip; printed is the median of each and their ratio. Both give the same
frames, which is checked first. Broken clips are named and left out.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

from dataloaders.container import probe
from dataloaders.decode import decode_raw
from dataloaders.errors import DataError
from dataloaders.frames import uniform_indices


def sequential(data: bytes, indices: np.ndarray, threads: int) -> list[np.ndarray]:
    """Decode in order until the last frame that is wanted, and convert only the wanted ones."""
    wanted, found = set(indices.tolist()), {}
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                found[number] = frame.to_ndarray(format="rgb24")
                if len(found) == len(wanted):
                    break
    return [found[index] for index in indices.tolist()]


def cpu_seconds(action: Callable[[], object]) -> float:
    began = time.process_time()
    action()
    return time.process_time() - began


def compare(path: Path, num_frames: int, runs: int) -> tuple[float, float]:
    """Median CPU seconds of ours and of the sequential decode, one thread each."""
    data = path.read_bytes()
    count = probe(data, name=str(path)).frame_count
    indices = uniform_indices(count, num_frames)

    def ours() -> list[np.ndarray]:
        return decode_raw(data, indices, frame_count=count, name=str(path)).frames

    def theirs() -> list[np.ndarray]:
        return sequential(data, indices, threads=1)

    assert all(np.array_equal(a, b) for a, b in zip(ours(), theirs(), strict=True)), path
    pairs = [(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(runs)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    say = sys.stdout.write
    ratios = []
    for path in args.clips:
        try:
            ours, theirs = compare(path, args.frames, args.runs)
        except DataError as error:
            say(f"{path.name:<36} left out: {error}\n")
            continue
        ratios.append(ours / theirs)
        say(f"{path.name:<36} {ours:8.3f} s {theirs:8.3f} s  ratio {ratios[-1]:.2f}\n")
    if ratios:
        geometric = statistics.geometric_mean(ratios)
        say(f"{len(ratios)} clips: median {statistics.median(ratios):.2f}, ")
        say(f"geometric mean {geometric:.2f}, {min(ratios):.2f} to {max(ratios):.2f}\n")


if __name__ == "__main__":
    main()
