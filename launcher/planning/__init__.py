"""`gcg plan`: what a run needs, before it runs. No GPU, no weights, no network.

census (sizes) ─► shapes ─► activations, flops, states ─► memory, timing ─► search ─► report
           traffic ─► links ─► timing; data rates, checkpointing ─► limits ─► remedies ─► report
"""

from __future__ import annotations

from dataclasses import dataclass

from gcg.errors import ModelError
from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.planning.data_rates import sample_of
from launcher.planning.flops import Flops, pair_flops
from launcher.planning.frames import FeatureReading, FrameCosts, frame_costs
from launcher.planning.limits import Limits, run_limits
from launcher.planning.memory import Device, Memory
from launcher.planning.remedies import Remedy, remedy
from launcher.planning.search import (
    Candidate,
    Situation,
    candidates,
    cheapest,
    run_memory,
    run_time,
)
from launcher.planning.shapes import CLIP_SIZE, MicroBatch, ModelShape, micro_batch, model_shape
from launcher.planning.sizes import Census, take_census
from launcher.planning.timing import Hardware, StepTime
from launcher.planning.world import EpochData, World, epoch_data, fit_world

# Tokens of a question for CLIP and the Q-Former: NExT-QA's have 12 words on average, 40 at most.
QUESTION_TOKENS = 32


@dataclass(frozen=True)
class Plan:
    """All that `gcg plan` says. ``data`` is a sentence where the packed data are not there, and so
    is ``frames``, clips against features;
    ``recomputed``: the run's activations with every part recomputed. ``limits``: None on CPUs,
    where computing is not timed; ``remedy``: what moves the largest, if any setting does."""

    world: World
    situation: Situation
    batch: MicroBatch
    memory: Memory
    kept: Memory
    recomputed: Memory
    flops: list[Flops]
    time: StepTime
    data: EpochData | str
    frames: FrameCosts | FeatureReading | str
    candidates: list[Candidate]
    limits: Limits | None
    remedy: Remedy | None

    @property
    def config(self) -> RunConfig:
        return self.world.config

    @property
    def census(self) -> Census:
        return self.situation.census

    @property
    def best(self) -> Candidate | None:
        return cheapest(self.candidates)


def make_plan(
    config: RunConfig,
    hardware: Hardware,
    *,
    device: Device | None = None,
    gpus: int | None = None,
    nodes: int | None = None,
    question_tokens: int = QUESTION_TOKENS,
) -> Plan:
    """Plan a run on ``gpus`` workers of ``nodes`` machines.

    Args:
        config: the run; ``data.train`` need not be there.
        device: whose memory to plan; by default as ``scale.use_gpu`` says.
        gpus: the world size; by default ``scale.num_workers``.
        question_tokens: of a question, for CLIP and the Q-Former.

    Raises:
        UserError: numbers that no run can have, or a model that cannot be built or planned.
    """
    world = fit_world(config, gpus, nodes)
    data = epoch_data(world)
    known = isinstance(data, EpochData)
    model, census = describe_model(config)
    situation = Situation(
        census=census,
        model=model,
        device=device or ("cuda" if config.scale.use_gpu else "cpu"),
        hardware=hardware,
        nodes=world.nodes,
        question_tokens=min(question_tokens, model.text_context),
        pairs_per_visit=data.pairs_per_visit if known else config.data.questions_per_visit,
        clip=data.clip if known else CLIP_SIZE,
    )
    return _plan(world, situation, data)


def _plan(world: World, situation: Situation, data: EpochData | str) -> Plan:
    config = world.config
    batch = micro_batch(
        config, situation.model, config.engine.micro_batch, situation.question_tokens,
        situation.clip,
    )  # fmt: skip
    recompute = config.engine.recompute
    flops = pair_flops(situation.model, batch, situation.pairs_per_visit, recompute)
    step = run_time(config, situation)
    cuda = situation.device == "cuda"
    frames = frame_costs(world, data, situation.model, flops, step, situation.hardware, cuda=cuda)
    sample = sample_of(config, situation.model, data, frames)
    return Plan(
        world=world,
        situation=situation,
        batch=batch,
        memory=run_memory(config, situation),
        kept=run_memory(_recomputing(config, ()), situation),
        recomputed=run_memory(_recomputing(config, ("vision", "qformer", "llm")), situation),
        flops=flops,
        time=step,
        data=data,
        frames=frames,
        candidates=candidates(config, situation),
        limits=run_limits(config, situation, sample) if cuda else None,
        remedy=remedy(config, situation, sample) if cuda else None,
    )


def _recomputing(config: RunConfig, parts: tuple[str, ...]) -> RunConfig:
    engine = config.engine.model_copy(update={"recompute": parts})
    return config.model_copy(update={"engine": engine})


def describe_model(config: RunConfig) -> tuple[ModelShape, Census]:
    """The run's model: its shapes, and its parameters counted. It is built without weights, so of
    any size in a second or two.

    Raises:
        UserError: it cannot be built, or its sizes are not to be had.
    """
    from gcg.build import build_skeleton
    from gcg.presets import resolve_preset

    model = config.model
    quantized = model.llm.quantize != "none"
    if quantized:  # 4-bit weights are made on a GPU, with their values; the plain ones are counted
        llm = model.llm.model_copy(update={"quantize": "none"})
        model = model.model_copy(update={"llm": llm})
    try:
        shape = model_shape(model, resolve_preset(model))
        return shape, take_census(build_skeleton(model), config.optim, quantized)
    except UserError:
        raise
    except ModelError as error:
        raise UserError(error.lines) from None
    except ValueError as error:  # gcg's own complaints: path, value, rule, remedy
        raise UserError(str(error)) from None
