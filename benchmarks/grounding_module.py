"""The grounding module as we run it against the released method as it is written down.

    python -m benchmarks.grounding_module --work DIR [--quick]

Forward and backward at B 4, T 32, K 4, D_C 1024, five options, values of 257 × 1408 a frame:
centres, weights, both losses, and the frames' tokens mixed by the perturbed top-K. Both ways have
the same weights, inputs and noise and must give the same results. Peak memory is taken in a process
of its own, as what one pass adds to its inputs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.grounding_direct import DRAWS, NOISE_SCALE, Inputs, direct
from benchmarks.memory import added, apart
from benchmarks.results import Claim, Ratio, Result, Table, interleaved, machine, main
from gcg.config import GCGConfig, GroundingConfig
from gcg.contrast import Candidates, HeadContrast, Pairs
from gcg.generator import GaussianGenerator
from gcg.losses import Labels
from gcg.picking import pick, video_runs
from gcg.profiles import Profile, resolve_profile
from gcg.selection import perturbed_topk, seeded_noise

B, T, K, D_C, OPTIONS = 4, 32, 4, 1024, 5
VALUES = (257, 1408)

Outputs = tuple[Tensor, Tensor, Tensor]


class Module:
    """Both ways over one set of weights; ``seed`` for them and the inputs."""

    def __init__(self, seed: int = 0, values: tuple[int, int] = VALUES) -> None:
        torch.manual_seed(seed)
        grounding = GroundingConfig(dropout=0.0, noise_samples=DRAWS)
        config = GCGConfig(profile="released", num_frames=T, num_moments=K, grounding=grounding)
        self.profile: Profile = resolve_profile(config)
        generator, head = self.profile.generator(D_C), self.profile.contrast(D_C)
        assert isinstance(generator, GaussianGenerator)
        assert isinstance(head, HeadContrast)
        self.generator, self.head = generator, head
        self.given = Inputs(
            texts=torch.randn(B, 1 + OPTIONS, D_C),
            frames=torch.randn(B, T, D_C),
            values=torch.randn(B, T, *values),
            answer=torch.randn(B, D_C),
            moments=torch.rand(B, T).topk(K).indices.sort(dim=1).values,
            right=torch.arange(B) % OPTIONS,
            upstream=torch.randn(B, K, *values) * 1e-3,
            seeds=torch.arange(B) + 100,
        )

    @property
    def trained(self) -> list[nn.Parameter]:
        return [*self.generator.parameters(), *self.head.parameters()]

    def direct(self) -> Outputs:
        return direct(self.generator, self.head, self.given)

    def ours(self) -> Outputs:
        """As ``gcg.model.GCGModel.forward`` puts the parts together."""
        given, rows = self.given, torch.arange(B)
        mask = torch.ones(given.texts.shape[:2], dtype=torch.int64)
        located = self.generator(given.frames, given.texts, mask, given.texts[:, 0])
        weights = located.log_weights.exp()
        noise = seeded_noise(given.seeds, DRAWS, T)
        indicator = perturbed_topk(weights, noise, K, NOISE_SCALE, diagonal=True)
        runs = video_runs(rows)
        selected = pick(indicator, given.values, runs)
        labels = Labels(given.moments, None)
        loss_reg = self.profile.regression(located.centers, located.log_weights, labels).mean()
        group = torch.zeros(B, dtype=torch.int64)
        pairs = Pairs(
            joint=given.frames,
            positive=pick(indicator, given.frames, runs),
            weights=weights,
            group=group,
            position=rows,
            seeds=given.seeds,
            description=given.answer,
            answer=given.answer,
            options=given.texts[:, 1:],
            wrong=torch.arange(OPTIONS) != given.right[:, None],
        )
        candidates = Candidates(given.frames, group, rows, given.answer, rows, given.seeds)
        return selected, loss_reg, self.head(pairs, candidates).mean()

    def generator_alone(self) -> float:
        """Seconds of the generator's forward and backward pass, which both ways have."""
        given = self.given
        mask = torch.ones(given.texts.shape[:2], dtype=torch.int64)
        began = time.perf_counter()
        located = self.generator(given.frames, given.texts, mask, given.texts[:, 0])
        torch.autograd.grad(located.log_weights.sum(), list(self.generator.parameters()))
        return time.perf_counter() - began

    def gradients(self, outputs: Outputs) -> tuple[Tensor, ...]:
        one = torch.ones(())
        upstream = [self.given.upstream, one, one]
        return torch.autograd.grad(outputs, self.trained, upstream, materialize_grads=True)

    def difference(self) -> float:
        """The largest difference of any output or gradient, relative to its largest value."""
        worst = 0.0
        ways = (self.direct(), self.ours())
        found = [(*outputs, *self.gradients(outputs)) for outputs in ways]
        for theirs, ours in zip(*found, strict=True):
            scale = float(theirs.detach().abs().max())
            # Some gradients are 0 but for rounding: a bias that a softmax takes out again.
            if scale > 1e-5:
                worst = max(worst, float((theirs - ours).detach().abs().max()) / scale)
        return worst


def seconds(module: Module, way: Callable[[], Outputs]) -> float:
    began = time.perf_counter()
    module.gradients(way())
    return time.perf_counter() - began


def measure(work: Path, quick: bool) -> Result:
    """The grounding module against the released method as it is written down."""
    rounds = 3 if quick else 15
    module = Module()
    data: dict[str, Any] = {"difference": module.difference()}
    claims, rows = [], []
    threads = torch.get_num_threads()
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        ways = {n: partial(seconds, module, getattr(module, n)) for n in ("direct", "ours")}
        found = interleaved({**ways, "generator": module.generator_alone}, rounds, warm=2)
        data[f"seconds, threads {count}"] = found
        ratio = Ratio.of(found["direct"], found["ours"])
        claims.append(ratio.at_least(f"direct / ours, time, {count} threads", 3))
        shared = found["generator"]
        rest = [[a - b for a, b in zip(found[n], shared, strict=True)] for n in ("direct", "ours")]
        medians = (f"{1000 * statistics.median(times):.1f}" for times in found.values())
        rows.append((str(count), *medians, str(Ratio.of(*rest))))
    torch.set_num_threads(threads)
    columns = (
        "threads", "direct", "ours", "of both the generator's products", "direct / ours without",
    )  # fmt: skip
    times = Table("Milliseconds of a pass", columns, tuple(rows))
    held, memory = _memory(module)
    notes = (
        f"{machine()}; {rounds} rounds; largest relative difference of any output or gradient "
        f"{data['difference']:.0e}",
    )
    claims += held
    return Result("The grounding module", tuple(claims), (times, memory), (), notes, data)


def _memory(module: Module) -> tuple[list[Claim], Table]:
    peaks = {name: apart(peak_bytes, name) for name in ("direct", "ours")}
    results = module.given.upstream.nbytes + sum(p.nbytes for p in module.trained)
    working = {name: peak - results for name, peak in peaks.items()}
    claims = []
    for what, held in (("", peaks), (", but for Ê and the weights' gradients", working)):
        share = held["ours"] / held["direct"]
        named = f"ours / direct, peak of what a pass adds to its inputs{what}"
        claims.append(Claim(named, f"{share:.2f}", "≤ 1/3", share <= 1 / 3))
    rows = ((name, f"{peaks[name] / 2**20:.1f}", f"{working[name] / 2**20:.1f}") for name in peaks)
    columns = ("way", "at its peak", "but for Ê and the weights' gradients")
    return claims, Table("MiB that a pass adds to its inputs", columns, tuple(rows))


def peak_bytes(name: str) -> int:
    """Bytes that one forward and backward pass adds at its peak; in a process of its own."""
    torch.set_num_threads(1)
    module, small = Module(), Module(values=(2, 2))
    small.gradients(getattr(small, name)())  # loads the libraries' own buffers
    return added(lambda: module.gradients(getattr(module, name)()))


if __name__ == "__main__":
    raise SystemExit(main(measure))
