"""Does the cost model of `gcg plan` say what a step sends, saves, decodes and takes?

    python -m benchmarks.scaling --work DIR [--quick] [--json FILE]

Makes an InstructBLIP folder with random weights (79 M parameters), packs sample clips, and trains
it some steps at 1, 2 and 4 ranks over gloo with ZeRO-1, 2 and 3, through the code that `gcg train`
runs in its workers. Bytes on the wire are those that the kernel counts on each rank's sockets
(``benchmarks/wire.py``). DIR keeps the model; a run takes about ten minutes of two cores.
``--quick`` trains the tiny preset at two ranks.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.results import Claim, Result, Table, main
from benchmarks.scaling_loader import Loading, loading
from benchmarks.scaling_ranks import Measured, train
from launcher.planning.traffic import Collective

# Settings of ZeRO-3 by which a model of 79 M elements is let go after its forward pass, as one of
# many billions is.
LET_GO = {
    "stage3_prefetch_bucket_size": 1_000_000,
    "stage3_max_live_parameters": 4_000_000,
    "stage3_max_reuse_distance": 0,
}
STEPS = 3


@dataclass(frozen=True)
class Case:
    """A run to measure. ``llm``: ``model.llm.train``."""

    world: int
    zero: int
    llm: str = "frozen"
    let_go: bool = False
    recompute: bool = False
    precision: str = "fp32"

    @property
    def exact(self) -> bool:
        """Whether all calls are modelled, not only their bytes, and not as an upper bound."""
        return not self.let_go and not self.recompute

    @property
    def own(self) -> dict[str, int]:
        return LET_GO if self.let_go else {}

    def __str__(self) -> str:
        llm = "LLM frozen" if self.llm == "frozen" else "all but the encoders trained"
        let_go = ", weights let go" if self.let_go else ""
        return f"{llm}{', recomputed' if self.recompute else ''}, {self.precision}{let_go}"


@dataclass(frozen=True)
class Checked:
    """A case, measured and modelled. ``collectives``: with what gloo makes of a reduce-scatter, an
    all-reduce; ``plain``: as a ring has them. ``step``: seconds."""

    case: Case
    ranks: tuple[Measured, ...]
    collectives: tuple[Collective, ...]
    plain: float
    checkpoint: float
    write: float
    step: float

    @property
    def sent(self) -> float:
        """Bytes a worker sends, as modelled."""
        return sum(each.sent(self.case.world) for each in self.collectives)

    @property
    def calls(self) -> int:
        return sum(each.calls for each in self.collectives)

    @property
    def measured(self) -> Measured:
        """The rank that sent, or saved, most."""
        return max(self.ranks, key=lambda rank: (rank.sent, rank.checkpoint))


def cases(quick: bool) -> list[Case]:
    if quick:
        return [*(Case(2, zero) for zero in (1, 2, 3)), Case(2, 2, precision="bf16")]
    grid = [Case(world, zero) for world in (1, 2, 4) for zero in (1, 2, 3)]
    return [
        *grid,
        *(Case(2, zero, "full") for zero in (1, 2, 3)),
        Case(2, 3, let_go=True),
        Case(2, 3, recompute=True),
    ]


def measure(work: Path, quick: bool) -> Result:
    """The cost model of a step against measurements at 1, 2 and 4 ranks."""
    from benchmarks.plan_memory import make_data, model_tree

    if quick:
        model: dict[str, Any] = {"num_frames": 8, "num_moments": 2}
    else:
        make_model(work)
        model = model_tree(work)
    make_data(work, model)
    checked = [check(work, model, case, 1 if quick else STEPS) for case in cases(quick)]
    loaded = loading(run_tree(work, model, Case(1, 2)), seconds=2.0 if quick else 15.0)
    # The tiny preset's checkpoint is 7 MB, of which names and buffers take their part.
    return report(checked, loaded, checkpoint_bound=0.15 if quick else 0.02)


def make_model(work: Path) -> None:
    """Random weights in the layout of the public checkpoints, kept if they are there."""
    from tests.gcg.weights.checkpoints import Sizes, make_instructblip, make_open_clip

    sizes = Sizes(
        vision_width=256, vision_layers=6, vision_heads=4, vision_ffn=1024,
        image_size=56, patch_size=14, joint_width=256,
        text_width=256, text_layers=4, text_heads=4, vocabulary=8000,
        qformer_width=256, qformer_layers=4, qformer_heads=8, num_query_tokens=8,
        llm_width=768, llm_layers=8, llm_heads=12, llm_ffn=2048,
    )  # fmt: skip
    done = work / "model.json"
    if done.is_file() and done.read_text() == repr(sizes):
        return
    eva, _ = make_open_clip(work / "clip", sizes)
    make_instructblip(work / "instructblip", "llama", sizes, eva=eva)
    done.write_text(repr(sizes))


def run_tree(work: Path, model: Mapping[str, Any], case: Case) -> dict[str, Any]:
    """Two micro-batches of one clip with two questions a worker, whatever the world."""
    llm = {**model.get("llm", {}), "train": case.llm}
    return {
        "run": {"name": f"zero{case.zero}", "storage": str(work / "runs")},
        "data": {
            "train": str(work / "train"),
            "questions_per_visit": 2,
            "streams": case.world,
            "global_batch": 2 * case.world,
            "contrast_group": 1,
            "decode_threads": 1,
        },
        "model": {**model, "llm": llm},
        "optim": {"steps": 1000},
        "engine": {
            "zero": case.zero,
            "precision": case.precision,
            "micro_batch": 1,
            "recompute": ["llm"] if case.recompute else [],
        },
        "scale": {"num_workers": case.world},
        "log": {"tensorboard": False},
    }


def check(work: Path, model: Mapping[str, Any], case: Case, steps: int) -> Checked:
    """Run a case and put the model beside it."""
    from launcher.config import parse_run_config
    from launcher.planning import describe_model
    from launcher.planning.checkpointing import checkpoint_bytes
    from launcher.planning.links import Cluster, Way, wire_seconds
    from launcher.planning.memory import run_engine
    from launcher.planning.traffic import traffic
    from tests.spawn import run_ranks

    run = run_tree(work, model, case)
    shutil.rmtree(work / "runs", ignore_errors=True)
    (work / "runs").mkdir()
    ranks = run_ranks(train, case.world, run, steps, case.own, timeout_s=1800, preloaded=True)
    config = parse_run_config(run)
    _, census = describe_model(config)
    engine = replace(run_engine(config, "cpu"), own=tuple(case.own.items()))
    plain = traffic(census, engine)
    collectives = [as_gloo(each) for each in plain]
    slow = min(ranks, key=lambda rank: rank.bandwidth)
    # One delay a call, however many steps its ring has: that is how it was measured.
    ways = (Way("ring", slow.delay, 0.0, 0.0, 1.0),)
    cluster = Cluster(case.world, 1, slow.bandwidth or 1.0, ways)
    whole, most = checkpoint_bytes(census, engine)
    return Checked(
        case,
        tuple(ranks),
        tuple(collectives),
        sum(each.sent(case.world) for each in plain),
        most,
        whole / sum(rank.disk for rank in ranks),
        max(rank.flops / rank.tflops for rank in ranks) / 1e12 + wire_seconds(collectives, cluster),
    )


def as_gloo(collective: Collective) -> Collective:
    """gloo has no reduce-scatter of its own: it reduces all of it everywhere, twice the bytes."""
    if collective.kind == "reduce-scatter":
        return replace(collective, kind="all-reduce")
    return collective


def report(
    checked: Sequence[Checked], loaded: Sequence[Loading], checkpoint_bound: float
) -> Result:
    sharing = [one for one in checked if one.case.world > 1]
    return Result(
        title="The cost model against measurement",
        claims=(
            _within("bytes a worker sends in a step, modelled / counted by the kernel", 0.01,
                    [one.sent / one.measured.sent for one in sharing if not one.case.recompute]),
            _within("calls of collectives, modelled / counted", 0.0,
                    [one.calls / sum(one.measured.calls.values())
                     for one in sharing if one.case.exact]),
            _within("bytes of a checkpoint that the worker with most of it writes, modelled / on the disk",
                    checkpoint_bound,
                    [one.checkpoint / max(rank.checkpoint for rank in one.ranks)
                     for one in checked]),
        ),
        tables=(_wire(sharing), _steps(checked), _checkpoints(checked), _loading(loaded)),
        notes=NOTES,
        data={
            "cases": [
                {**asdict(one), "sent": one.sent, "calls": one.calls} for one in checked
            ],
            "loading": [asdict(one) for one in loaded],
        },
    )  # fmt: skip


NOTES = (
    "Bytes are the payload of each rank's sockets (TCP_INFO), which no other process adds to; what "
    "is modelled is a ring's, with a reduce-scatter counted as the all-reduce that gloo makes of "
    "it. NCCL has one of its own: the column *in rings* is what a cluster sends.",
    "*Weights let go*: by default ZeRO-3 keeps what it will use again within 10^9 elements, more "
    "than this model has, so its backward pass gathers nothing. With that distance at 0 and 4 M "
    "elements alive at most it does what it does to a model of many billions; calls are then cut "
    "otherwise, and are not compared.",
    "*Recomputed*: DeepSpeed lets go of frozen weights between recomputing a block and its "
    "backward pass, though it keeps the block's last ones; the model has all of them, an upper bound, "
    "and is not in the first two lines.",
    "Steps are modelled as products at the rate that all ranks reach together on this machine, and "
    "collectives at gloo's measured rate and delay, one after the other. What is not a matrix "
    "product (normalisation, softmax, AdamW, hooks of ZeRO-3) is not modelled, products of this "
    "size do not reach the rate of the probe, and four ranks share two cores while they wait.",
)


def _within(what: str, bound: float, ratios: Sequence[float]) -> Claim:
    low, high = min(ratios), max(ratios)
    met = 1 - bound <= low and high <= 1 + bound
    shown = f"{low:.4f} to {high:.4f}"
    return Claim(what, shown, f"1 ± {bound:g}" if bound else "1", met)


def _wire(checked: Sequence[Checked]) -> Table:
    rows = []
    for one in checked:
        calls, found = sum(one.measured.calls.values()), one.measured.sent
        rows.append((
            str(one.case.world), str(one.case.zero), str(one.case),
            f"{one.plain / 1e6:.2f} MB", f"{one.sent / 1e6:.2f} MB", f"{found / 1e6:.2f} MB",
            f"{one.sent / found:.4f}", f"{one.calls} / {calls}",
        ))  # fmt: skip
    columns = (
        "ranks", "ZeRO", "run", "in rings", "over gloo, modelled", "counted", "ratio",
        "calls, modelled / counted",
    )  # fmt: skip
    return Table("Bytes that a worker sends in a step", columns, tuple(rows))


def _steps(checked: Sequence[Checked]) -> Table:
    rows = []
    for one in checked:
        slow = max(one.ranks, key=lambda rank: rank.step)
        rows.append((
            str(one.case.world), str(one.case.zero), str(one.case), f"{slow.tflops * 1e3:.0f}",
            f"{slow.bandwidth / 1e9:.2f} GB/s, {slow.delay * 1e3:.1f} ms" if slow.delay else "–",
            f"{one.step:.2f} s", f"{slow.step:.2f} s", f"{one.step / slow.step:.2f}",
        ))  # fmt: skip
    columns = (
        "ranks", "ZeRO", "run", "GFLOP/s a rank", "gloo: rate, delay", "modelled", "measured",
        "ratio",
    )  # fmt: skip
    return Table("Time of a step, nothing overlapping", columns, tuple(rows))


def _checkpoints(checked: Sequence[Checked]) -> Table:
    rows = []
    for one in checked:
        most = max(rank.checkpoint for rank in one.ranks)
        first, disk = one.ranks[0], sum(rank.disk for rank in one.ranks)
        rows.append((
            str(one.case.world), str(one.case.zero), str(one.case),
            f"{one.checkpoint / 1e6:.2f} MB", f"{most / 1e6:.2f} MB",
            f"{one.checkpoint / most:.3f}", f"{disk / 1e9:.2f} GB/s", f"{one.write:.2f} s", f"{first.write:.2f} s",
        ))  # fmt: skip
    columns = (
        "ranks", "ZeRO", "run", "most of a rank, modelled", "on the disk", "ratio", "disk, probed",
        "writing, modelled", "measured",
    )  # fmt: skip
    return Table("A sharded checkpoint", columns, tuple(rows))


def _loading(loaded: Sequence[Loading]) -> Table:
    rows = [
        (
            str(one.threads), f"{one.seconds:.4f} s", f"{one.modelled:.1f}", f"{one.measured:.1f}",
            f"{one.modelled / one.measured:.2f}",
        )
        for one in loaded
    ]  # fmt: skip
    columns = ("threads", "CPU of a clip", "clips/s, modelled", "clips/s of the loader", "ratio")
    return Table("Decoding, the loader alone", columns, tuple(rows))


if __name__ == "__main__":
    raise SystemExit(main(measure))
