"""What ``benchmarks.scaling`` found, in claims and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks.results import Claim, Result, Table
from benchmarks.scaling_loader import Loading
from benchmarks.scaling_ranks import Measured
from launcher.planning.traffic import Collective

# Settings of ZeRO-3 by which a model of 79 M elements is let go after its forward pass, as one of
# many billions is.
LET_GO = {
    "stage3_prefetch_bucket_size": 1_000_000,
    "stage3_max_live_parameters": 4_000_000,
    "stage3_max_reuse_distance": 0,
}
_RUN = ("ranks", "ZeRO", "run")


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
    all-reduce; ``plain``: bytes sent as a ring has them. ``compute``, ``wire``: seconds of a step,
    the products at the rate that was measured."""

    case: Case
    ranks: tuple[Measured, ...]
    collectives: tuple[Collective, ...]
    plain: float
    checkpoint: float
    write: float
    compute: float
    wire: float

    @property
    def sent(self) -> float:
        """Bytes a worker sends, as modelled."""
        return sum(each.sent(self.case.world) for each in self.collectives)

    @property
    def step(self) -> float:
        """Seconds of a step, measured, of the slowest rank."""
        return max(rank.step for rank in self.ranks)

    @property
    def calls(self) -> int:
        return sum(each.calls for each in self.collectives)

    @property
    def measured(self) -> Measured:
        """The rank that sent, or saved, most."""
        return max(self.ranks, key=lambda rank: (rank.sent, rank.checkpoint))


def report(
    checked: Sequence[Checked], loaded: Sequence[Loading], checkpoint_bound: float
) -> Result:
    sharing = [one for one in checked if one.case.world > 1]
    sent = [one.sent / one.measured.sent for one in sharing if not one.case.recompute]
    calls = [one.calls / sum(one.measured.calls.values()) for one in sharing if one.case.exact]
    saved = [one.checkpoint / max(rank.checkpoint for rank in one.ranks) for one in checked]
    return Result(
        title="The cost model against measurement",
        claims=(
            _within("bytes a worker sends in a step, modelled / counted by the kernel", 0.01, sent),
            _within("calls of collectives, modelled / counted", 0.0, calls),
            _within(
                "bytes of a checkpoint, the worker's with most of it, modelled / on the disk",
                checkpoint_bound,
                saved,
            ),
        ),
        tables=(_wire(sharing), _steps(checked), _checkpoints(checked), _loading(loaded)),
        notes=NOTES,
        data={
            "cases": [{**asdict(one), "sent": one.sent, "calls": one.calls} for one in checked],
            "loading": [asdict(one) for one in loaded],
        },
    )


NOTES = (
    "Bytes are the payload of each rank's sockets (TCP_INFO), which no other process adds to; what "
    "is modelled is a ring's, with a reduce-scatter counted as the all-reduce that gloo makes of "
    "it. NCCL has one of its own: the column *in rings* is what a cluster sends.",
    "*Weights let go*: by default ZeRO-3 keeps what it will use again within 10^9 elements, more "
    "than this model has, so its backward pass gathers nothing. With that distance at 0 and 4 M "
    "elements alive at most it does what it does to a model of many billions; calls are then cut "
    "otherwise, and are not compared.",
    "*Recomputed*: DeepSpeed lets go of frozen weights between recomputing a block and its "
    "backward pass, though it keeps the block's last ones; the model has all of them, an upper "
    "bound, and is not in the first two lines.",
    "Steps: products at the rate of the fastest, a core or its part for each rank (four share "
    "two), times the share of it that one rank's step reached with that stage (in the place of "
    "`--mfu`, so the rows of one rank are 1.00); then collectives at gloo's measured rate and "
    "delay. What is predicted is what more ranks add. Times are the shortest of several, rates "
    "the highest: other work shared the cores.",
    "Where it is off (not profiled further): ZeRO-3 at several ranks takes longer than modelled; "
    "it also copies what is gathered into flat buffers and out of them. The FLOPs of *recomputed* "
    "are without those computed again. Writing a checkpoint takes about twice what the probe's one "
    "tensor takes, and more where it is small: there are more files, and rank 0 looks every tenth "
    "of a second whether all are there.",
    "Decoding: rates of the clock need a free core for each thread, which this machine did not "
    "have for two; CPU-seconds do not. In the loader a clip also is "
    "read and has its part of a batch made, which `gcg plan` leaves out: its rates are somewhat "
    "too high.",
)


def _within(what: str, bound: float, ratios: Sequence[float]) -> Claim:
    low, high = min(ratios), max(ratios)
    met = 1 - bound <= low and high <= 1 + bound
    return Claim(what, f"{low:.4f} to {high:.4f}", f"1 ± {bound:g}" if bound else "1", met)


def _run(one: Checked) -> tuple[str, str, str]:
    return str(one.case.world), str(one.case.zero), str(one.case)


def _wire(checked: Sequence[Checked]) -> Table:
    rows = []
    for one in checked:
        calls, found = sum(one.measured.calls.values()), one.measured.sent
        sizes = (f"{size / 1e6:.2f} MB" for size in (one.plain, one.sent, found))
        rows.append((*_run(one), *sizes, f"{one.sent / found:.4f}", f"{one.calls} / {calls}"))
    columns = (*_RUN, "in rings", "over gloo, modelled", "counted", "ratio",
               "calls, modelled / counted")  # fmt: skip
    return Table("Bytes that a worker sends in a step", columns, tuple(rows))


def _steps(checked: Sequence[Checked]) -> Table:
    shares = {
        (one.case.zero, one.case.llm): one.compute / one.step
        for one in checked
        if one.case.world == 1
    }
    rows = []
    for one in checked:
        case, slow = one.case, max(one.ranks, key=lambda rank: rank.step)
        links = f"{slow.bandwidth / 1e9:.2f} GB/s, {slow.delay * 1e3:.1f} ms" if slow.delay else "–"
        share = shares.get((case.zero, case.llm)) or shares.get((1, case.llm)) or 1.0
        step = one.compute / share + one.wire
        parts = (f"{slow.tflops * 1e3:.0f} × {share:.2f}", links, f"{one.compute / share:.2f} s")
        times = (f"{one.wire:.2f} s", f"{step:.2f} s", f"{one.step:.2f} s")
        rows.append((*_run(one), *parts, *times, f"{step / one.step:.2f}"))
    columns = (*_RUN, "GFLOP/s of a rank, share", "gloo: rate, delay", "computing", "wire",
               "modelled", "measured", "ratio")  # fmt: skip
    return Table("Time of a step, nothing overlapping", columns, tuple(rows))


def _checkpoints(checked: Sequence[Checked]) -> Table:
    rows = []
    for one in checked:
        most = max(rank.checkpoint for rank in one.ranks)
        sizes = (f"{one.checkpoint / 1e6:.2f} MB", f"{most / 1e6:.2f} MB")
        disk = sum(rank.disk for rank in one.ranks)
        times = (f"{disk / 1e9:.2f} GB/s", f"{one.write:.2f} s", f"{one.ranks[0].write:.2f} s")
        rows.append((*_run(one), *sizes, f"{one.checkpoint / most:.3f}", *times))
    columns = (*_RUN, "most of a rank, modelled", "on the disk", "ratio", "disk, probed",
               "writing, modelled", "measured")  # fmt: skip
    return Table("A sharded checkpoint", columns, tuple(rows))


def _loading(loaded: Sequence[Loading]) -> Table:
    rows = []
    for one in loaded:
        cpu = (f"{one.seconds:.4f} s", f"{one.loader:.4f} s", f"{one.seconds / one.loader:.2f}")
        rates = (f"{one.modelled:.1f}", f"{one.measured:.1f}", f"{one.modelled / one.measured:.2f}")
        rows.append((str(one.threads), *cpu, *rates))
    columns = ("threads", "CPU of a clip, as planned", "in the loader", "ratio",
               "clips/s, modelled", "of the loader", "ratio")  # fmt: skip
    return Table("Decoding, the loader alone", columns, tuple(rows))
