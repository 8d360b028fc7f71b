"""A worker's memory, line by line, and its peak over the phases of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from launcher.config import RunConfig
from launcher.planning.activations import Kept, micro_batch_activations
from launcher.planning.offload import engine_lines
from launcher.planning.shapes import MicroBatch, ModelShape
from launcher.planning.sizes import Census
from launcher.planning.states import PHASES, TRAINING, Engine, Line, Phase
from launcher.training.contrast import groups_span

Device = Literal["cpu", "cuda"]

# A process on a GPU before it has a tensor there: context, cuBLAS and cuDNN workspaces, NCCL's
# channels. Stated; on one H200 a worker took 1.0 GB beside what torch held (docs/planning.md).
CUDA_PROCESS = 2_000_000_000
# Of a GPU's tensors: what torch's caching allocator cannot use, for blocks do not fit exactly.
CUDA_SLACK = 0.05
# A worker's resident memory but for its tensors: Python, torch, transformers, DeepSpeed, the data
# plane with their shared libraries, threads and caches, after the first step of a model of 2 M
# parameters. Measured (docs/planning.md); what Ray adds to a worker is not in it.
HOST_PROCESS = 1_100_000_000
# glibc gives a freed block back at once only if it was mapped by itself, as blocks above the
# mmap threshold are; the threshold grows with what is freed, up to 32 MiB (mallopt(3),
# M_MMAP_THRESHOLD). Smaller blocks lie on the heap, which shrinks only from its end.
MAPPED = 32 * 2**20
# Pictures that a decoder of H.264 or HEVC may have to keep for reference, and those in flight.
SURFACES = 20

_FORWARD: tuple[Phase, ...] = ("forward", "backward")


@dataclass(frozen=True)
class Memory:
    """All lines of one worker. ``device``: whose memory it is. ``host``: of a worker on a GPU, what
    is offloaded."""

    device: Device
    lines: tuple[Line, ...]
    host: tuple[Line, ...] = ()

    def total(self, phase: Phase) -> int:
        """Bytes in a phase, what the process and its allocator need included."""
        return sum(size for _, _, size in self.table(phase))

    @property
    def peak_phase(self) -> Phase:
        """On a CPU phases may be equal, since what is freed is kept: then the fullest of them."""
        return max(PHASES, key=lambda phase: (self.total(phase), self._lines_total(phase)))

    @property
    def peak(self) -> int:
        return self.total(self.peak_phase)

    @property
    def host_peak(self) -> int:
        """Bytes that are offloaded, in the fullest phase."""
        return max(
            sum(line.bytes for line in self.host if phase in line.phases) for phase in PHASES
        )

    def table(self, phase: Phase) -> list[tuple[str, str, int]]:
        """(kind, part, bytes) of each line there in a phase, the reserves last."""
        rows = [(line.kind, line.part, line.bytes) for line in self.lines if phase in line.phases]
        used = sum(size for _, _, size in rows)
        if self.device == "cuda":
            slack = round(CUDA_SLACK * used)
            rows.append(("reserve", "caching allocator, 5 % of the above", slack))
            rows.append(("reserve", "CUDA context, cuBLAS, NCCL (stated)", CUDA_PROCESS))
        else:
            kept = max(self._heap(other) for other in PHASES) - self._heap(phase)
            rows.append(("reserve", "freed, kept by the C allocator", kept))
            rows.append(("reserve", "Python, torch, DeepSpeed (measured)", HOST_PROCESS))
        return rows

    def _lines_total(self, phase: Phase) -> int:
        return sum(line.bytes for line in self.lines if phase in line.phases)

    def _heap(self, phase: Phase) -> int:
        """Bytes of small tensors, which stay with the process once they have been there."""
        return sum(
            line.bytes for line in self.lines if phase in line.phases and line.tensor < MAPPED
        )


def worker_memory(
    config: RunConfig, census: Census, model: ModelShape, batch: MicroBatch, device: Device
) -> Memory:
    """What one worker of the run holds. ``config`` has the planned world size, micro-batch, ZeRO
    stage and recomputation."""
    engine = run_engine(config, device)
    kept = micro_batch_activations(
        model, batch, engine.element, engine.zero, config.engine.recompute
    )
    lines = [
        *engine_lines(census, engine),
        *_activations(kept),
        *_contrast(config, model, batch, engine),
        *_frames(config, model, batch, engine, device),
    ]
    if device == "cpu":
        lines += _building(census, engine)
        return Memory(device, tuple(lines))
    return Memory(
        device,
        tuple(line for line in lines if not line.host),
        tuple(line for line in lines if line.host),
    )


def run_engine(config: RunConfig, device: Device) -> Engine:
    """The ZeRO engine of a run."""
    return Engine(
        zero=config.engine.zero,
        world=config.world_size,
        element=4 if config.engine.precision == "fp32" else 2,
        accumulation=config.accumulation,
        cuda=device == "cuda",
        offload=config.engine.offload,
        recompute=config.engine.recompute,
    )


def snapshot(config: RunConfig, census: Census) -> int:
    """Bytes of the host that rank 0 copies of a checkpoint in the background: its share of float32
    weights and both moments, and below ZeRO-3 the trained weights as the engine has them."""
    engine = run_engine(config, "cpu")
    whole = 0 if engine.zero == 3 else census.trained * engine.element
    return census.trained * 12 // engine.world + whole


def _activations(kept: list[Kept]) -> list[Line]:
    """Parts run one after another, so only the largest working set counts; in the backward pass
    the activations are there until a part's own is done."""
    lines = [Line("activations", one.part, one.saved, _FORWARD, one.tensor) for one in kept]
    largest = max(kept, key=lambda one: one.working)
    lines.append(
        Line("activations", f"at work: {largest.part}", largest.working, _FORWARD, largest.tensor)
    )
    return lines


def _contrast(
    config: RunConfig, model: ModelShape, batch: MicroBatch, engine: Engine
) -> list[Line]:
    """C of every visit of the groups a micro-batch touches. Where groups reach beyond a
    micro-batch, all of a step are encoded ahead, and E of the others waits
    (launcher/training/contrast.py).
    """
    if not model.grounded:
        return []
    reached = max(batch.visits, config.data.contrast_group)
    vectors = reached * model.num_frames * model.joint_width * 4
    lines = [Line("contrast features", "joint vectors", 2 * vectors, _FORWARD)]
    if groups_span(config) and engine.accumulation > 1:
        frame = model.image_tokens * model.vision.width * engine.element
        waiting = (engine.accumulation - 1) * batch.visits * model.num_frames * frame
        one = batch.visits * model.num_frames * frame
        lines.append(
            Line("contrast features", "frames of waiting micro-batches", waiting, _FORWARD, one)
        )
    return lines


def _frames(
    config: RunConfig, model: ModelShape, batch: MicroBatch, engine: Engine, device: Device
) -> list[Line]:
    """Pixels of the micro-batch at hand; where they are decoded in the memory that is planned,
    also those of the steps held ready, and what a decoder works with. What is uploaded to a GPU is
    there for all of this step and of the next (``launcher/training/upload.py``)."""
    if model.features:  # the micro-batch's own are E, among the activations
        return _features_ready(config, model, batch, engine, device)
    pixels = batch.visits * model.num_frames * 3 * model.image_size**2
    one = pixels * engine.element
    if device == "cuda" and config.data.decoder == "host":
        return [_uploaded(engine, one)]
    lines = [Line("frames", "micro-batch", one, _FORWARD, one)]
    return lines + decoding(config, model, batch, engine.accumulation)


def _uploaded(engine: Engine, micro_batch: int) -> Line:
    size = 2 * engine.accumulation * micro_batch
    return Line("frames", "inputs of this step and the next", size, TRAINING, micro_batch)


def _features_ready(
    config: RunConfig, model: ModelShape, batch: MicroBatch, engine: Engine, device: Device
) -> list[Line]:
    """Features of the steps that are ready or in use: in fp16 on the host, else uploaded."""
    frame = model.image_tokens * model.vision.width + model.joint_width
    if device == "cuda":
        return [_uploaded(engine, batch.visits * model.num_frames * frame * engine.element)]
    one = model.num_frames * frame * 2
    ready = (config.data.prefetch_steps + 1) * engine.accumulation * batch.visits * one
    return [Line("frames", "steps held ready", ready, TRAINING, one)]


def decoding(
    config: RunConfig, model: ModelShape, batch: MicroBatch, accumulation: int
) -> list[Line]:
    """Frames in float32 of the steps that are ready or in use, and per decoder the frames of a clip
    at its own size and the pictures that its codec keeps. DALI decodes clip by clip."""
    pixels = batch.visits * model.num_frames * 3 * model.image_size**2
    ready = (config.data.prefetch_steps + 1) * accumulation * pixels * 4
    width, height = batch.clip
    decoders = 1 if config.data.decoder == "dali" else config.data.decode_threads
    clip = width * height * 3 * model.num_frames
    surfaces = width * height * 3 // 2 * SURFACES
    one_clip = model.num_frames * 3 * model.image_size**2 * 4
    return [
        Line("frames", "steps held ready", ready, TRAINING, one_clip),
        Line("frames", f"{decoders} × decoder", decoders * (clip + surfaces), TRAINING, clip),
    ]


def _building(census: Census, engine: Engine) -> list[Line]:
    """On a CPU the start can be the peak. Stages 1 and 2 flatten an AdamW group's weights into a
    new buffer while the old ones are there; stage 3 does so with a worker's slices of all."""
    e = engine.element
    if engine.zero == 3:
        size = -(-census.trained // engine.world) * e
        largest = -(-max(w.numel for w in census.weights) // engine.world) * e
        return [Line("start", "slices before they are joined", size, ("start",), largest)]
    lines = []
    for small in (True, False):
        size = sum(
            weight.numel * e
            for weight in census.weights
            if weight.trained and (weight.numel * e < MAPPED) == small
        )
        tensor = 0 if small else MAPPED
        lines.append(Line("start", "weights before they are joined", size, ("start",), tensor))
    return [line for line in lines if line.bytes]
