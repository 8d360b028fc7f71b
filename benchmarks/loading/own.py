"""Our own loader in a process of its own: overhead, questions a visit, resuming.

`python -m benchmarks.loading.own WHAT FOLDER`, spoken to by `benchmarks.loading.child.Child`.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.loading.child import cpu_seconds, serve
from benchmarks.loading.clips import Clip
from benchmarks.memory import resident

if TYPE_CHECKING:
    from dataloaders.loader import StepBatch

SIZE, THREADS, QUESTIONS, GLOBAL_BATCH = 224, 2, 8, 4
WARM = 3


def pack(clips: list[Clip], copies: int, out: Path) -> None:
    """Clips with eight questions each, several samples of each clip, in two shards or more."""
    from dataloaders.manifest import Question, Video
    from dataloaders.shards import pack as pack_shards

    rows = [
        Video(
            id=f"{clip.path.stem}-{number}",
            path=str(clip.path),
            questions=[
                Question(id=f"{clip.path.stem}-{number}-{k}", question=f"What {k}?", answer="it")
                for k in range(QUESTIONS)
            ],
        )
        for number in range(copies)
        for clip in clips
    ]
    pack_shards(rows, out, verify=False, min_shards=4, overwrite=True)


def build(folder: Path, questions_per_visit: int, num_frames: int, **settings: Any) -> Any:
    """The loader over a packed folder, one stream, one rank, with a tokenizer of letters."""
    from dataloaders.fetch import HostDecoder
    from dataloaders.loader import Loader
    from dataloaders.open_source import open_source
    from dataloaders.plan import Plan
    from tests.dataloaders.shard_fixtures import collator

    source = open_source(folder)
    plan = Plan.for_source(
        source,
        seed=0,
        num_streams=1,
        global_batch=GLOBAL_BATCH,
        questions_per_visit=questions_per_visit,
    )
    return Loader(
        source,
        plan,
        collator(),
        HostDecoder(SIZE),
        num_frames=num_frames,
        decode_threads=THREADS,
        **settings,
    )


def loop(folder: Path, questions_per_visit: int, num_frames: int, steps: int) -> dict[str, Any]:
    """CPU and wall seconds of ``steps`` steps, after ``WARM`` that fill memory and caches."""
    loader = build(folder, questions_per_visit, num_frames, prefetch_steps=1)
    with loader:
        for _ in range(WARM):
            next(loader)
        _ready(loader)
        began, clock = cpu_seconds(), time.perf_counter()
        # The first comes from before; the one that is ready at the end comes in its place.
        done = [_size(next(loader)) for _ in range(steps)]
        _ready(loader)
        cpu, wall = cpu_seconds() - began, time.perf_counter() - clock
    visits, pairs = (sum(numbers) for numbers in zip(*done, strict=True))
    return {"cpu": cpu, "wall": wall, "visits": visits, "pairs": pairs}


def _ready(loader: Any) -> None:
    for ahead, _ in loader._prefetchers[-1]._pending:
        ahead.result()


def _size(step: StepBatch) -> tuple[int, int]:
    return sum(len(batch.pixels) for batch in step.micro), step.num_pairs


def bare(folder: Path, num_frames: int, steps: int) -> dict[str, Any]:
    """The clips that `loop` decodes, in its order, by as many threads, from memory."""
    from dataloaders.fetch import HostDecoder
    from dataloaders.frames import uniform_indices

    loader = build(folder, QUESTIONS, num_frames)
    source, plan, decoder = loader._source, loader.plan, HostDecoder(SIZE)
    chosen = []
    for step in range(WARM + 1, WARM + 1 + steps):
        epoch, inside = divmod(step, plan.steps_per_epoch(0))
        for visit in plan.visits(epoch, inside, 0, 1)[0]:
            entry = source.entries(visit.shard)[visit.sample]
            chosen.append((source.read(visit.shard, entry).video_bytes, entry.frame_count))

    def decode(data: bytes, count: int) -> int:
        at = uniform_indices(count, num_frames)
        return len(decoder(data, at, frame_count=count, name="clip.mp4").pixels)

    began, clock = cpu_seconds(), time.perf_counter()
    with ThreadPoolExecutor(THREADS) as pool:
        total = sum(pool.map(decode, *zip(*chosen, strict=True)))
    assert total == num_frames * len(chosen), total
    cpu, wall = cpu_seconds() - began, time.perf_counter() - clock
    return {"cpu": cpu, "wall": wall, "visits": len(chosen)}


def memory(folder: Path, num_frames: int, prefetch_steps: int, steps: int) -> dict[str, Any]:
    """Peak resident memory, with a consumer that comes when everything is ready."""
    before = resident("VmHWM")
    with build(folder, QUESTIONS, num_frames, prefetch_steps=prefetch_steps) as loader:
        step_bytes = 0
        for _ in range(steps):
            step = next(loader)
            step_bytes = sum(batch.pixel_values.nbytes for batch in step.micro)
            _ready(loader)
        return {"before": before, "peak": resident("VmHWM"), "step": step_bytes}


def resume(folder: Path, num_frames: int, step: int) -> dict[str, Any]:
    """Seconds from a loader that is built to its first batch at a step of the run."""
    loader = build(folder, QUESTIONS, num_frames, prefetch_steps=1)
    with loader:
        epoch, inside = divmod(step, loader.plan.steps_per_epoch(0))
        loader.load_state_dict(loader.state_dict() | {"epoch": epoch, "step": inside})
        began, clock = cpu_seconds(), time.perf_counter()
        first = next(loader)
        cpu, wall = cpu_seconds() - began, time.perf_counter() - clock
    assert (first.epoch, first.step) == (epoch, inside)
    return {"cpu": cpu, "wall": wall, "epoch": epoch}


def main() -> None:
    work = Path(sys.argv[1])
    actions = {"loop": loop, "bare": bare, "memory": memory, "resume": resume}

    def make() -> Any:
        import torch

        torch.set_num_threads(1)

        def answer(action: str, **request: Any) -> dict[str, Any]:
            return actions[action](work, **request)

        return answer, {}

    serve(make)


if __name__ == "__main__":
    main()
