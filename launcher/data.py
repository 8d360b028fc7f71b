"""The training data of one worker, from the run file."""

from __future__ import annotations

from pathlib import Path

from dataloaders.feature_reader import FeatureReader, feature_info
from dataloaders.fetch import ClipDecoder, HostDecoder
from dataloaders.labels import LabelSet
from dataloaders.loader import Loader
from dataloaders.location import join
from dataloaders.open_source import open_source
from dataloaders.plan import Plan
from dataloaders.quarantine import Quarantine
from dataloaders.source import Source
from gcg.config import GCGConfig
from launcher.build import Parts, build_collator
from launcher.config import RunConfig
from launcher.feature_check import check_frames


def needs_labels(model: GCGConfig) -> bool:
    """Whether training in this mode reads pseudo-labels."""
    return model.mode in ("grounding", "oracle")


def labels_folder(config: RunConfig, data: str) -> str:
    return join(data, "labels", config.data.labels)


def build_plan(config: RunConfig, source: Source) -> Plan:
    """The order of the run's batches.

    Raises:
        DataError: too few shards or visits for the run's streams and batch.
    """
    return Plan.for_source(
        source,
        seed=config.run.seed,
        num_streams=config.data.streams,
        global_batch=config.data.global_batch,
        questions_per_visit=config.data.questions_per_visit,
        block_shards=config.data.block_shards,
    )


def build_decoder(
    config: RunConfig, image_size: int, source: Source, setting: str = "data.train"
) -> ClipDecoder:
    """What turns encoded clips into frames of ``image_size`` pixels, or reads features.

    Raises:
        DataError: DALI is asked for and absent, or the model cannot read what the data set, named
            by ``setting``, holds.
    """
    check_frames(config.model, source, setting)
    info = feature_info(source)
    if info is not None:
        return FeatureReader(info)
    if config.data.decoder == "host":
        return HostDecoder(image_size)
    import torch

    from dataloaders.device_clips import DeviceClipDecoder

    use_gpu = config.scale.use_gpu
    return DeviceClipDecoder(
        "mixed" if use_gpu else "cpu",
        num_frames=config.model.num_frames,
        size=image_size,
        device_id=torch.cuda.current_device() if use_gpu else 0,
    )


def build_loader(
    config: RunConfig, parts: Parts, rank: int, world_size: int, quarantine: Path
) -> tuple[Source, Loader]:
    """The packed data and the loader of one rank's batches. Close both, the loader first.

    Args:
        quarantine: file to list this rank's unreadable clips in.

    Raises:
        DataError: the data or its labels cannot be used for this run.
    """
    data = config.data
    source = open_source(data.train)
    labels = None
    if needs_labels(config.model):
        labels = LabelSet(labels_folder(config, data.train))
    loader = Loader(
        source,
        build_plan(config, source),
        build_collator(config.model, parts.coders, config.run.seed),
        build_decoder(config, parts.image_size, source),
        num_frames=config.model.num_frames,
        rank=rank,
        world_size=world_size,
        micro_batch=config.engine.micro_batch,
        contrast_group=data.contrast_group,
        labels=labels,
        quarantine=Quarantine(
            quarantine,
            max_bad_share=data.max_bad_share,
            max_consecutive=data.max_consecutive_bad,
        ),
        decode_threads=data.decode_threads,
        prefetch_steps=data.prefetch_steps,
    )
    return source, loader
