"""The decoders and loaders that are compared, each behind the same two functions.

A contender gets a folder with copies of one clip, and gives float32 (T, 3, 224, 224) tensors of the
same frames. All resize with `dataloaders.transform.preprocess`, so that what differs is reading
and decoding. Those that are loaders by themselves read the copies from their own format, in the
process that asks: worker processes would add the cost of handing tensors over.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataloaders.fetch import HostDecoder
from dataloaders.frames import uniform_indices
from dataloaders.transform import preprocess

SIZE = 224
THREADS = 2
Decode = Callable[[bytes, np.ndarray, int], torch.Tensor]
Run = Callable[[bytes, int, int, int], Iterator[torch.Tensor]]


def pooled(decode: Decode) -> Run:
    """Copies of a clip through a pool of threads."""

    def run(data: bytes, frame_count: int, num_frames: int, copies: int) -> Iterator[torch.Tensor]:
        indices = uniform_indices(frame_count, num_frames)
        with ThreadPoolExecutor(THREADS) as pool:
            jobs = [pool.submit(decode, data, indices, frame_count) for _ in range(copies)]
            for job in jobs:
                yield job.result()

    return run


def ours() -> Run:
    decoder = HostDecoder(SIZE)
    return pooled(lambda data, at, count: decoder(data, at, frame_count=count, name="c.mp4").pixels)


def torchcodec(seek_mode: str) -> Decode:
    from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found]

    def decode(data: bytes, indices: np.ndarray, frame_count: int) -> torch.Tensor:
        video = VideoDecoder(
            data, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode=seek_mode
        )
        return preprocess(video.get_frames_at(indices.tolist()).data, SIZE)

    return decode


def decord() -> Decode:
    from decord import VideoReader, cpu  # type: ignore[import-not-found]

    def decode(data: bytes, indices: np.ndarray, frame_count: int) -> torch.Tensor:
        video = VideoReader(io.BytesIO(data), ctx=cpu(0), num_threads=1)
        return preprocess(video.get_batch(indices.tolist()).asnumpy(), SIZE)

    return decode


def pyav() -> Decode:
    from benchmarks.decode import sequential

    def decode(data: bytes, indices: np.ndarray, frame_count: int) -> torch.Tensor:
        return preprocess(np.stack(sequential(data, indices, threads=1)), SIZE)

    return decode


def webdataset(folder: Path) -> Run:
    import webdataset

    library: Any = webdataset  # its names are made at run time

    decode = torchcodec("exact")

    def run(data: bytes, frame_count: int, num_frames: int, copies: int) -> Iterator[torch.Tensor]:
        indices = uniform_indices(frame_count, num_frames)
        path = folder / f"{copies}-{len(data)}-{frame_count}.tar"
        if not path.exists():
            with library.TarWriter(str(path)) as tar:
                for number in range(copies):
                    tar.write({"__key__": f"{number:04d}", "mp4": data})
        samples: Any = library.WebDataset(str(path), shardshuffle=False)
        for sample in samples:
            yield decode(sample["mp4"], indices, frame_count)

    return run


def streaming(folder: Path) -> Run:
    from streaming import MDSWriter, StreamingDataset  # type: ignore[import-not-found]

    decode = torchcodec("exact")

    def run(data: bytes, frame_count: int, num_frames: int, copies: int) -> Iterator[torch.Tensor]:
        indices = uniform_indices(frame_count, num_frames)
        place = folder / f"{copies}-{len(data)}-{frame_count}.mds"
        if not place.exists():
            with MDSWriter(out=str(place), columns={"mp4": "bytes"}) as writer:
                for _ in range(copies):
                    writer.write({"mp4": data})
        samples: Any = StreamingDataset(local=str(place), shuffle=False, batch_size=1)
        with closing(iter(samples)) as rows:
            for sample in rows:
                yield decode(sample["mp4"], indices, frame_count)

    return run


# By name: how to make it, given a folder for its files, and the packages it needs beside ours.
CONTENDERS: dict[str, tuple[Callable[[Path], Run], tuple[str, ...]]] = {
    "ours": (lambda folder: ours(), ()),
    "torchcodec exact": (lambda folder: pooled(torchcodec("exact")), ("torchcodec",)),
    "torchcodec approximate": (lambda folder: pooled(torchcodec("approximate")), ("torchcodec",)),
    "decord": (lambda folder: pooled(decord()), ("decord",)),
    "decord2": (lambda folder: pooled(decord()), ("decord2",)),
    "PyAV sequential": (lambda folder: pooled(pyav()), ()),
    "webdataset + torchcodec": (webdataset, ("torchcodec",)),
    "StreamingDataset + torchcodec": (streaming, ("torchcodec", "streaming")),
}
