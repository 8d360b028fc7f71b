"""What a machine must decode and read for a step, and what it can."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.config import RunConfig
from launcher.planning.frames import DECODE_SECONDS, FeatureReading, FrameCosts, features_of
from launcher.planning.shapes import ModelShape
from launcher.planning.timing import Hardware
from launcher.planning.world import EpochData

# Bytes of a clip where none is there: stated, half a minute of H.264 at 640 x 480, 1 Mbit/s.
CLIP_BYTES = 4e6
# NVDEC engines of an H100, and pictures a second of each at 1920 x 1080 in H.264: stated, NVIDIA's
# application note has the figure of each codec; none of it was measured.
NVDEC_ENGINES = 7
NVDEC_PICTURES = 600.0
# Pictures that are decoded for the 32 of a clip: stated, 32 groups of a keyframe a second, in
# each half of it.
PICTURES = 400.0
# CPU-seconds of a clip through NVDEC, of those of the host's decoder (docs/data.md, one H200).
NVDEC_HOST_SHARE = 0.09


@dataclass(frozen=True)
class DataRates:
    """Of each machine. ``clips``: decoded in a step, ``decode_rate``: clips a second that can be;
    ``bytes``: read in a step, ``read_rate``: bytes a second that can be. ``known``: whether clips
    were measured; else the figures are stated."""

    clips: float
    decode_rate: float
    bytes: float
    read_rate: float
    known: bool

    @property
    def decode(self) -> float:
        """Seconds of a step's decoding."""
        return self.clips / self.decode_rate

    @property
    def read(self) -> float:
        return self.bytes / self.read_rate


@dataclass(frozen=True)
class Sample:
    """A video of the data: ``decode``, CPU-seconds on the host, and the ``bytes`` to be read."""

    decode: float
    bytes: float
    known: bool


def sample_of(
    config: RunConfig,
    model: ModelShape,
    data: EpochData | str,
    frames: FrameCosts | FeatureReading | str,
) -> Sample:
    """From what `gcg plan` knows of the data, and stated figures for what it does not."""
    known = isinstance(data, EpochData)
    size = data.bytes / data.samples if isinstance(data, EpochData) else CLIP_BYTES
    if config.model.input == "features":
        if not known:
            size = float(features_of(config, model).sample_bytes(config.model.num_frames))
        return Sample(0.0, size, known)
    if isinstance(frames, FrameCosts):
        return Sample(frames.decode_per_clip, size, frames.measured > 0)
    return Sample(DECODE_SECONDS, size, False)


def data_rates(
    config: RunConfig,
    sample: Sample,
    hardware: Hardware,
    nodes: int,
    clip: tuple[int, int],
    *,
    cuda: bool,
) -> DataRates:
    """What each of ``nodes`` machines needs for a global batch.

    Args:
        clip: width and height of a clip, for NVDEC.
    """
    visits = config.data.global_batch / nodes
    workers = config.world_size // nodes
    clips = visits if sample.decode else 0.0
    rate = host_rate(sample.decode, workers * config.data.decode_threads)
    if config.data.decoder == "dali" and cuda:
        rate = min(rate / NVDEC_HOST_SHARE, workers * nvdec_rate(clip))
    return DataRates(clips, rate, visits * sample.bytes, hardware.read, sample.known)


def host_rate(seconds: float, threads: int) -> float:
    """Clips a second of threads that have a core each."""
    return threads / seconds if seconds else float("inf")


def nvdec_rate(clip: tuple[int, int]) -> float:
    """Clips a second of one GPU."""
    pixels = clip[0] * clip[1] / (1920 * 1080)
    return NVDEC_ENGINES * NVDEC_PICTURES / pixels / PICTURES
