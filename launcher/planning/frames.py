"""Clips or their features: what either costs an epoch, and which is cheaper for the run.

Clips are small and must be decoded and encoded with every visit; features are large and only read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from dataloaders.errors import DataError
from dataloaders.feature_info import FeatureInfo
from dataloaders.feature_reader import feature_info
from dataloaders.fetch import HostDecoder
from dataloaders.frames import uniform_indices
from dataloaders.location import is_url
from dataloaders.open_source import open_source
from dataloaders.source import Source
from launcher.config import RunConfig
from launcher.planning.flops import Flops
from launcher.planning.shapes import ModelShape
from launcher.planning.timing import Hardware, StepTime
from launcher.planning.world import EpochData, World

# CPU-seconds to decode a clip where none is there to be measured: stated, 32 frames of about half a
# minute of H.264 at 640 x 480.
DECODE_SECONDS = 0.5
# Clips that are decoded to measure it, and CPU-seconds after which no other one is begun.
MEASURED_CLIPS = 8
MEASURED_SECONDS = 10.0

TRUNK = ("vision trunk", "joint head")


@dataclass(frozen=True)
class FrameCosts:
    """Of an epoch on each machine but where it says otherwise; times in seconds.

    ``clip_bytes``, ``feature_bytes``: read. ``decode``: CPU-seconds, at ``decode_per_clip``, the
    mean of ``measured`` clips (0: stated). ``trunk``: GPU-seconds of the image encoder, None where
    the run is on CPUs. ``with_clips``, ``with_features``: how long an epoch takes, reading and
    decoding beside the training step; ``making``: to extract the features once. ``epochs``: of the
    run. ``stored``: bytes of all features.
    """

    visits: float
    clip_bytes: float
    feature_bytes: float
    stored: int
    decode_per_clip: float
    measured: int
    decode: float
    trunk: float | None
    with_clips: float
    with_features: float
    making: float
    epochs: float

    @property
    def cheaper(self) -> Literal["clips", "features"]:
        """Which makes the whole run shorter, the making of features included."""
        features = self.making + self.epochs * self.with_features
        return "features" if features < self.epochs * self.with_clips else "clips"

    @property
    def pays_after(self) -> float | None:
        """Epochs after which features have paid for their making; None: never."""
        gain = self.with_clips - self.with_features
        return self.making / gain if gain > 0 else None


@dataclass(frozen=True)
class FeatureReading:
    """A run on features: ``bytes`` read in an epoch by each machine, and how long that takes."""

    bytes: float
    seconds: float


def frame_costs(
    world: World,
    data: EpochData | str,
    model: ModelShape,
    flops: list[Flops],
    step: StepTime,
    hardware: Hardware,
    *,
    cuda: bool,
) -> FrameCosts | FeatureReading | str:
    """The comparison for a run on clips; what is read for a run on features; or why it is unknown.

    Args:
        flops: of a pair; ``step``: of an optimizer step, with ``model`` as the run has it.
        cuda: whether it runs on GPUs; else computing is not timed.
    """
    if not isinstance(data, EpochData):
        return data
    config = world.config
    visits = data.visits / world.nodes
    if config.model.input == "features":
        read = visits * data.bytes / data.samples
        return FeatureReading(read, read / hardware.read)
    if config.model.vision.train:
        return "model.vision.train is true: features are of an image encoder that stays as it is"
    info = features_of(config, model)
    per_clip, measured = decode_seconds(config, model.image_size)
    clip_bytes = visits * data.bytes / data.samples
    feature_bytes = visits * info.sample_bytes(config.model.num_frames)
    decode = visits * per_clip
    decoding = decode / (world.per_node * config.data.decode_threads)
    trunk = _trunk(flops, visits * data.pairs_per_visit, hardware) if cuda else None
    epoch = step.seconds * data.steps if cuda else 0.0
    alone = (trunk or 0.0) / world.per_node
    with_clips = max(clip_bytes / hardware.read, decoding, epoch)
    with_features = max(feature_bytes / hardware.read, epoch - alone)
    once = data.samples / data.visits
    return FrameCosts(
        visits=visits,
        clip_bytes=clip_bytes,
        feature_bytes=feature_bytes,
        stored=data.samples * info.sample_bytes(config.model.num_frames),
        decode_per_clip=per_clip,
        measured=measured,
        decode=decode,
        trunk=trunk,
        with_clips=with_clips,
        with_features=with_features,
        # They are written as fast as they will be read.
        making=once * max((clip_bytes + feature_bytes) / hardware.read, decoding, alone),
        epochs=config.optim.steps / data.steps,
    )


def features_of(config: RunConfig, model: ModelShape) -> FeatureInfo:
    """What `gcg extract` would write, but for the encoder's name."""
    return FeatureInfo(
        tokens=model.image_tokens,
        width=model.vision.width,
        embedding_width=model.joint_width,
        dtype="fp16",
        encoder="",
    )


def _trunk(flops: list[Flops], pairs: float, hardware: Hardware) -> float:
    encoder = sum(part.forward for part in flops if part.part in TRUNK)
    return pairs * encoder / (hardware.tflops * 1e12 * hardware.mfu)


def decode_seconds(config: RunConfig, image_size: int) -> tuple[float, int]:
    """CPU-seconds to decode a clip of the first data set, and of how many that is the mean.

    Clips that are not on this machine are not fetched for it: then it is the stated figure, of 0.
    """
    place = config.data.sets[0].place
    if is_url(place):
        return DECODE_SECONDS, 0
    try:
        with open_source(place) as source:
            taken = _measure(source, config.model.num_frames, image_size)
    except DataError:
        taken = []
    return (sum(taken) / len(taken), len(taken)) if taken else (DECODE_SECONDS, 0)


def _measure(source: Source, num_frames: int, image_size: int) -> list[float]:
    if feature_info(source) is not None:
        return []
    decoder, taken = HostDecoder(image_size), []
    for part in range(MEASURED_CLIPS + 1):  # the first also loads the libraries, and is not counted
        shard = part * len(source.shards) // (MEASURED_CLIPS + 1)
        entries = source.entries(shard)
        entry = entries[part % len(entries)]
        try:
            sample = source.read(shard, entry)
            before = time.process_time()
            indices = uniform_indices(entry.frame_count, num_frames)
            decoder(
                sample.video_bytes, indices, frame_count=entry.frame_count, name=entry.video.name
            )
            taken.append(time.process_time() - before)
        except MemoryError:
            raise
        except Exception:  # a bad clip says nothing of the others
            continue
        if sum(taken) > MEASURED_SECONDS:
            break
    return taken[1:] or taken
