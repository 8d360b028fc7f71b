"""The training data of one worker, from the run file."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from dataloaders.assemble import Stage
from dataloaders.feature_reader import FeatureReader, feature_info
from dataloaders.fetch import ClipDecoder, HostDecoder
from dataloaders.labels import LabelSet
from dataloaders.loader import Loader
from dataloaders.location import join
from dataloaders.mixed_source import MixedSource
from dataloaders.mixture import MixturePlan
from dataloaders.open_source import open_source
from dataloaders.plan import Plan
from dataloaders.quarantine import Budget, Quarantine
from dataloaders.set_quotas import SetRule
from dataloaders.shard_source import ShardSource
from dataloaders.source import Source
from dataloaders.storage.options import StorageOptions
from gcg.config import GCGConfig
from launcher.checks.features import check_frames
from launcher.config import RunConfig
from launcher.config.data import TrainSet
from launcher.training.build import Parts, build_collator


def needs_labels(model: GCGConfig) -> bool:
    """Whether training in this mode reads pseudo-labels."""
    return model.mode in ("grounding", "oracle")


def labels_folder(config: RunConfig, data: str, name: str | None = None) -> str:
    """Where the labels of a data set lie; ``name``: of its label set, if it has its own."""
    return join(data, "labels", name or config.data.labels)


def storage_options(config: RunConfig) -> StorageOptions:
    """How data at a URL are read."""
    data = config.data
    options = StorageOptions(cache_bytes=int(data.cache_gb * 1e9), retries=data.retries)
    return options if data.cache_dir is None else replace(options, cache_dir=data.cache_dir)


def open_set(config: RunConfig, each: TrainSet) -> ShardSource:
    """A packed data set of the run. Shards that are lost or cut short are warned of, and met clip
    by clip, as long as they hold no more of it than its ``max_bad_share``.

    Raises:
        DataError: there is none, or more of it is lost.
        StorageError: its URL cannot be reached.
    """
    share = budget(config, each).max_bad_share
    return open_source(each.place, storage_options(config), max_lost_share=share)


def open_train(config: RunConfig) -> Source:
    """What the run is trained on: one packed data set, or a mixture of several.

    Raises:
        DataError: one is not there, or more of it is lost than may be, or they hold different
            features.
        StorageError: the URL of one cannot be reached.
    """
    sets = config.data.sets
    if not config.data.mixture:
        return open_set(config, sets[0])
    with ExitStack() as opened:
        parts = [opened.enter_context(open_set(config, each)) for each in sets]
        source = MixedSource(parts)
        opened.pop_all()
    return source


def budget(config: RunConfig, each: TrainSet) -> Budget:
    """What may be bad of one of the run's data sets."""
    data = config.data
    return Budget(
        data.max_bad_share if each.max_bad_share is None else each.max_bad_share,
        each.max_consecutive_bad or data.max_consecutive_bad,
    )


def mixture_budgets(config: RunConfig, source: Source) -> dict[str, Budget]:
    """Of the parts of a mixture, by the names that their bad samples go under."""
    if not isinstance(source, MixedSource):
        return {}
    pairs = zip(source.parts, config.data.sets, strict=True)
    return {part.name: budget(config, each) for part, each in pairs}


def build_plan(config: RunConfig, source: Source) -> Plan | MixturePlan:
    """The order of the run's batches.

    Raises:
        DataError: too few shards or visits for the run's streams and batch.
    """
    data = config.data
    settings = {
        "seed": config.run.seed,
        "num_streams": data.streams,
        "global_batch": data.global_batch,
        "questions_per_visit": data.questions_per_visit,
        "block_shards": data.block_shards,
    }
    if not isinstance(source, MixedSource):
        return Plan.for_source(source, **settings)
    rules = [SetRule(each.place, each.repeat, each.weight) for each in data.sets]
    return MixturePlan.for_sources(source.parts, rules, **settings)


def train_labels(config: RunConfig, source: Source) -> LabelSet | list[LabelSet] | None:
    """The labels of what is trained on, as the loader wants them; None if the mode reads none.

    Raises:
        DataError: there are none of that name.
    """
    if not needs_labels(config.model):
        return None
    storage = storage_options(config)
    found = [
        LabelSet(labels_folder(config, each.place, each.labels), storage)
        for each in config.data.sets
    ]
    return found if isinstance(source, MixedSource) else found[0]


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
        batch_size=config.data.decode_threads,
        max_frame_sizes=config.data.max_frame_sizes,
        device_id=torch.cuda.current_device() if use_gpu else 0,
    )


def build_loader(
    config: RunConfig,
    parts: Parts,
    rank: int,
    world_size: int,
    quarantine: Path,
    stage: Stage | None = None,
) -> tuple[Source, Loader]:
    """The packed data and the loader of one rank's batches. Close both, the loader first.

    Args:
        quarantine: file to list this rank's unreadable clips in.
        stage: of the loader.

    Raises:
        DataError: the data or its labels cannot be used for this run.
    """
    data = config.data
    source = open_train(config)
    loader = Loader(
        source,
        build_plan(config, source),
        build_collator(config.model, parts.tokens, config.run.seed),
        build_decoder(config, parts.image_size, source),
        num_frames=config.model.num_frames,
        rank=rank,
        world_size=world_size,
        micro_batch=config.engine.micro_batch,
        contrast_group=data.contrast_group,
        labels=train_labels(config, source),
        quarantine=Quarantine(
            quarantine,
            max_bad_share=data.max_bad_share,
            max_consecutive=data.max_consecutive_bad,
            budgets=mixture_budgets(config, source),
        ),
        decode_threads=data.decode_threads,
        decode_timeout_s=data.decode_timeout_s,
        prefetch_steps=data.prefetch_steps,
        stage=stage,
    )
    return source, loader
