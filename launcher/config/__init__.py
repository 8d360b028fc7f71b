"""The run file: one frozen tree of sections, checked as a whole before anything starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from dataloaders.layout import contrast_groups, divisors
from gcg.config import GCGConfig
from gcg.section import Section
from launcher.config.data import DataSection, Name, Storage
from launcher.config.errors import explain
from launcher.config.file import read_tree
from launcher.config.log import LogSection
from launcher.config.safety import CheckpointSection, SafetySection
from launcher.config.scale import ScaleSection
from launcher.errors import ConfigError
from launcher.storage.places import run_place


class RunSection(Section):
    """Who the run is: its folder is ``storage``/``name``, and the same name continues it."""

    name: Name = Field(description="of its folder below run.storage; the same name continues it")
    storage: Storage = Field(
        default="runs", description="folder or s3:// URL, of all workers and all attempts"
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="of all that is random")


class OptimSection(Section):
    """AdamW with two learning rates, linear warm-up, then a cosine down to ``min_lr_share``."""

    steps: int = Field(ge=1, description="optimizer steps of the whole run")
    lr: float = Field(
        default=1e-5, gt=0, description="of all that is trained but the grounding module"
    )
    grounding_lr: float = Field(default=7e-5, gt=0, description="of the grounding module")
    weight_decay: float = Field(default=0.02, ge=0, description="of AdamW, for matrices")
    betas: tuple[
        Annotated[float, Field(ge=0, lt=1)],
        Annotated[float, Field(ge=0, lt=1)],
    ] = Field(default=(0.9, 0.999), description="of AdamW's moments")
    warmup_steps: int = Field(default=0, ge=0, description="until the learning rates are there")
    projection_warmup_steps: int = Field(
        default=0,
        ge=0,
        description="steps in which only the projection to the LLM learns: for a fresh one",
    )
    min_lr_share: float = Field(
        default=0.0, ge=0, le=1, description="of the learning rates, at the last step"
    )
    clip_norm: float = Field(
        default=1.0, gt=0, description="the most that the norm of all gradients may be"
    )


class EngineSection(Section):
    """How the step is computed: the ZeRO stage, the precision, and what fits into memory."""

    zero: Literal[1, 2, 3] = Field(default=2, description="ZeRO stage: what workers share out")
    precision: Literal["bf16", "fp16", "fp32"] = Field(
        default="bf16", description="of weights and activations; the optimizer's stay fp32"
    )
    micro_batch: int = Field(default=4, ge=1, description="visits per forward pass and worker")
    # Vision matters only with model.vision.train=true.
    recompute: tuple[Literal["vision", "qformer", "llm"], ...] = Field(
        default=(),
        description="whose activations are computed again in the backward pass, not kept",
    )
    # The optimizer's: float32 weights, gradients and moments, and AdamW runs there; weights: each
    # worker's slices that are not in use.
    offload: tuple[Literal["optimizer", "weights"], ...] = Field(
        default=(), description="what lies in host memory; `weights` under ZeRO-3 alone"
    )
    loss_scale_power: int = Field(
        default=16, ge=0, le=18, description="fp16: the loss is scaled by 2 to this power at first"
    )
    loss_scale_window: int = Field(
        default=1000, ge=1, description="fp16: good steps until the scale is doubled"
    )


class EvalSection(Section):
    every: int = Field(default=0, ge=0, description="steps; 0: only at the end")
    max_videos: int | None = Field(
        default=None, ge=1, description="validate on the first so many; null: on all"
    )


class RunConfig(Section):
    """A whole run. What must fit between sections is checked by :func:`cross_check`."""

    run: RunSection
    data: DataSection
    model: GCGConfig = GCGConfig()
    optim: OptimSection
    engine: EngineSection = EngineSection()
    scale: ScaleSection = ScaleSection()
    checkpoint: CheckpointSection = CheckpointSection()
    safety: SafetySection = SafetySection()
    eval: EvalSection = EvalSection()
    log: LogSection = LogSection()

    @property
    def folder(self) -> Path:
        """Where everything of this run lies; of a URL a path with the same methods."""
        return run_place(self.run.storage) / self.run.name

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step on each of :attr:`world_size` workers."""
        return self.data.global_batch // (self.engine.micro_batch * self.world_size)

    @property
    def world_sizes(self) -> list[int]:
        """The numbers of workers it may have, ascending: within the bounds, and as batches fit."""
        workers = self.scale.num_workers
        if isinstance(workers, int):
            return [workers]
        return [w for w in _usable_worlds(self) if workers[0] <= w <= workers[1]]

    @property
    def world_size(self) -> int:
        """How many workers it has; where that may change, the most."""
        return self.world_sizes[-1]

    def at_world_size(self, workers: int) -> RunConfig:
        """The same run with a fixed number of workers."""
        scale = self.scale.model_copy(update={"num_workers": workers})
        return self.model_copy(update={"scale": scale})


# The fields that decide what is learned. A run may be continued with others changed.
_TRAJECTORY = {
    "run": {"seed"},
    "data": {
        "labels",
        "questions_per_visit",
        "streams",
        "global_batch",
        "block_shards",
        "contrast_group",
    },
    "model": None,
    "optim": None,
    "engine": {"precision", "loss_scale_power", "loss_scale_window"},
}


def load_run_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and check a run file.

    Args:
        path: a YAML file, of this machine or in an object store.
        overrides: ``section.key=value`` strings, the value read as YAML.

    Raises:
        ConfigError: with every problem found, a line each.
    """
    return parse_run_config(read_tree(run_place(path), overrides))


def parse_run_config(tree: dict[str, Any]) -> RunConfig:
    """As :func:`load_run_config`, from a tree that was read already."""
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, RunConfig, tree)) from None
    problems = list(cross_check(config))
    if problems:
        raise ConfigError(problems)
    return config


def dump(config: RunConfig) -> str:
    """The whole tree as YAML, defaults included; :func:`load_run_config` reads it back equal."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def trajectory(config: RunConfig) -> dict[str, Any]:
    """The dotted fields that decide what is learned, with their values."""
    tree = config.model_dump(mode="json")
    fields: dict[str, Any] = {}
    for section, keys in _TRAJECTORY.items():
        for path, value in _leaves(tree[section], section):
            if keys is None or path.split(".")[1] in keys:
                fields[path] = value
    # Not where the sets lie: data may move.
    for number, each in enumerate(config.data.mixture):
        for key in ("repeat", "weight", "labels"):
            fields[f"data.mixture.{number}.{key}"] = getattr(each, key)
    return fields


def fingerprint(config: RunConfig) -> str:
    """A hash of :func:`trajectory`."""
    text = json.dumps(trajectory(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cross_check(config: RunConfig) -> Iterator[str]:
    """The rules between sections, a line for each that is broken."""
    yield from _world_fits(config)
    data, optim = config.data, config.optim
    if data.global_batch % data.streams:
        fits = divisors(data.global_batch)
        yield (
            f"data.streams = {data.streams}: must divide data.global_batch = {data.global_batch}, "
            f"each stream gives equally many visits to a batch; choose one of {_some(fits)}"
        )
    else:
        fits = contrast_groups(data.streams, data.global_batch)
        if data.contrast_group not in fits:
            share = data.global_batch // data.streams
            yield (
                f"data.contrast_group = {data.contrast_group}: must divide data.global_batch = "
                f"{data.global_batch}, and divide a stream's part of it, {share} visits, or be a "
                f"multiple of that; choose one of {_some(fits)}"
            )
    if "weights" in config.engine.offload and config.engine.zero != 3:
        yield (
            f"engine.offload = {list(config.engine.offload)}: weights can be offloaded with ZeRO-3 "
            f"alone, which fetches them when they are needed, not with engine.zero = "
            f"{config.engine.zero}; use engine.zero=3, or engine.offload=[optimizer]"
        )
    if optim.warmup_steps >= optim.steps:
        yield (
            f"optim.warmup_steps = {optim.warmup_steps}: must be less than optim.steps = "
            f"{optim.steps}; shorten the warm-up"
        )
    elif optim.projection_warmup_steps + optim.warmup_steps >= optim.steps:
        yield (
            f"optim.projection_warmup_steps = {optim.projection_warmup_steps}: must be less than "
            f"optim.steps - optim.warmup_steps = {optim.steps - optim.warmup_steps}; the others "
            "warm up after it: shorten one of them"
        )
    if config.eval.every and data.val is None:
        yield (
            f"eval.every = {config.eval.every}: there is no data.val to evaluate on; "
            "set data.val or eval.every=0"
        )


def _world_fits(config: RunConfig) -> Iterator[str]:
    """Rules for the least number of workers; larger ones that do not fit are never started."""
    batch, micro, streams = config.data.global_batch, config.engine.micro_batch, config.data.streams
    world = config.scale.bounds[0]
    is_elastic = config.scale.is_elastic
    named = f"{list(config.scale.bounds)}: its least, {world}," if is_elastic else f"{world}:"
    worlds = _usable_worlds(config)
    if streams % world:
        yield (
            f"scale.num_workers = {named} must divide data.streams = {streams}, each worker "
            f"serves whole streams; choose one of {_some(divisors(streams))}, or other data.streams"
        )
    if batch % (world * micro):
        remedies = [f"num_workers in {_some(worlds)}"] if worlds else []
        if batch % world == 0:
            remedies.append(f"micro_batch in {_some(divisors(batch // world))}")
        step = world * micro
        remedies.append(f"a global_batch that is a multiple of {step}")
        yield (
            f"data.global_batch = {batch}: must be engine.micro_batch = {micro} × accumulation × "
            f"{'the least of ' if is_elastic else ''}scale.num_workers = {world}; choose "
            f"{', or '.join(remedies)}"
        )


def _usable_worlds(config: RunConfig) -> list[int]:
    batch, micro = config.data.global_batch, config.engine.micro_batch
    return [w for w in divisors(config.data.streams) if batch % (w * micro) == 0]


def _some(numbers: list[int]) -> str:
    """A list for a message, the middle of a long one left out."""
    if len(numbers) <= 12:
        return str(numbers)
    return f"[{', '.join(map(str, numbers[:11]))}, …, {numbers[-1]}]"


def _leaves(node: object, prefix: str) -> Iterator[tuple[str, object]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}")
    else:
        yield prefix, node
