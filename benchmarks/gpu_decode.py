"""Clips a second through NVDEC and through the host decoder, with the same threads asking.

    python -m benchmarks.gpu_decode [--clips 24] [--threads 8] [--rounds 3] [--json FILE]

Needs a GPU and DALI. Clips are H.264, 640x480, 20 s, a keyframe a second, noise over moving
gratings, encoded on the spot; 32 frames of each are decoded, resized to 224 pixels and normalised,
as training does. Both ways are interleaved; figures are medians over rounds. CPU seconds are the
process's own. The frames of both are compared, too.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from dataloaders.device_clips import DeviceClipDecoder
from dataloaders.fetch import ClipDecoder, HostDecoder
from dataloaders.frames import uniform_indices

FRAMES, SIZE = 32, 224
WIDTH, HEIGHT, RATE, SECONDS = 640, 480, 25, 20


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="NVDEC against the host decoder.")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args(argv)
    with ThreadPoolExecutor(args.threads) as pool:
        clips = list(pool.map(encode, range(args.clips)))
    torch.set_num_threads(1)
    ways: dict[str, ClipDecoder] = {
        "nvdec": DeviceClipDecoder("mixed", num_frames=FRAMES, size=SIZE, batch_size=args.threads),
        "host": HostDecoder(SIZE),
    }
    figures = compare(clips, ways, args.threads, args.rounds)
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def encode(seed: int) -> bytes:
    """One clip: drifting gratings under fixed noise, so that motion and texture cost bits."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(-24, 25, (HEIGHT, WIDTH, 3))
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "g": str(RATE), "crf": "23"}
        for number in range(RATE * SECONDS):
            wave = 96 + 64 * np.sin((x + 3 * number) / 17 + seed) + 32 * np.sin((y - number) / 29)
            pixels = np.clip(wave[..., None] + np.roll(noise, 2 * number, axis=1), 0, 255)
            frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def compare(
    clips: list[bytes], ways: dict[str, ClipDecoder], threads: int, rounds: int
) -> dict[str, Any]:
    indices = uniform_indices(RATE * SECONDS, FRAMES)

    def work(decoder: ClipDecoder) -> Callable[[bytes], torch.Tensor]:
        return lambda data: (
            decoder(data, indices, frame_count=RATE * SECONDS, name="clip.mp4").pixels
        )

    figures: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "threads": threads}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    worst = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for number in range(rounds + 1):
            made = {}
            for name, decoder in ways.items():
                began, used = time.perf_counter(), time.process_time()
                made[name] = list(pool.map(work(decoder), clips))
                torch.cuda.synchronize()
                if number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - began)
                    cpu[name].append(time.process_time() - used)
            pairs = zip(made["nvdec"], made["host"], strict=True)
            worst = max(worst, *((a.cpu() - b).abs().mean().item() for a, b in pairs))
    for name in ways:
        figures[name] = {
            "clips_per_s": len(clips) / statistics.median(seconds[name]),
            "cpu_s_per_clip": statistics.median(cpu[name]) / len(clips),
        }
    figures["ratio_clips_per_s"] = figures["nvdec"]["clips_per_s"] / figures["host"]["clips_per_s"]
    figures["largest_mean_difference"] = worst  # of normalised pixels, a clip's mean
    device: Any = ways["nvdec"]
    figures["decoded_on_host"] = device.host_clips
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
