"""The figures of the steps between two logged ones: pace, waiting, memory, share of the peak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import psutil
import torch
import torch.distributed as dist

from launcher.observe.peak import Peak
from launcher.training.step import StepResult

_PERCENTILES = (50, 90, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of ``values`` that at least ``percent`` % of them do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(percent / 100 * len(ranked)) - 1)]


class Meter:
    """Collects steps until :meth:`figures` tells of them and begins anew.

    A step lasts from asking for its batch until its update is made on all ranks; time in which
    training stands still (validation, checkpoints) is in none.

    Args:
        device: of this rank.
        peak: of all ranks together.
    """

    def __init__(self, device: torch.device, peak: Peak) -> None:
        self._device = device
        self._peak = peak
        self._process = psutil.Process()
        self._bad = self._seen = 0
        self.restart()

    def restart(self) -> None:
        """Forget the steps since the last logged one."""
        self._last: StepResult | None = None
        self._seconds: list[float] = []
        self._wait_s = self._loader_s = self._flops = 0.0
        self._pairs = 0
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def add(
        self, result: StepResult, wait_s: float, step_s: float, flops: float, loader_s: float = 0.0
    ) -> None:
        """A step was made.

        Args:
            wait_s: seconds until all ranks had their batch; ``step_s``: of the step after that.
            flops: of this rank's micro-batches.
            loader_s: of ``wait_s``, what this rank waited for its own loader; the rest is waiting
                for other ranks, and agreeing with them.
        """
        self._last = result
        self._seconds.append(wait_s + step_s)
        self._wait_s += wait_s
        self._loader_s += loader_s
        self._flops += flops
        self._pairs += result.num_pairs

    def figures(self, faults: Mapping[str, int]) -> dict[str, Any]:
        """Losses of the last step, and the pace since the last call. Every rank calls it.

        Args:
            faults: visits ``seen`` and ``bad`` since the attempt began, over all ranks.
        """
        last = self._last
        assert last is not None
        figures: dict[str, Any] = {
            "loss": last.loss,
            "loss_vqa": last.loss_vqa,
            "loss_reg": last.loss_reg,
            "loss_con": last.loss_con,
            "lr": last.lr,
            "grad_norm": last.grad_norm,
        }
        if last.loss_scale is not None:  # fp16
            figures |= {"loss_scale": last.loss_scale, "skipped_steps": last.skipped_steps}
        figures |= self._pace() | self._of_all_ranks() | self._bad_share(faults)
        self.restart()
        return figures

    def _pace(self) -> dict[str, float]:
        total, count = max(sum(self._seconds), 1e-9), len(self._seconds)
        return {
            "pairs_per_s": round(self._pairs / total, 3),
            "data_wait_s": round(self._wait_s / count, 4),
            "loader_wait_s": round(self._loader_s / count, 4),
            "data_wait_share": round(self._wait_s / total, 4),
            "step_s": round(total / count, 4),
            **{f"step_p{p}_s": round(percentile(self._seconds, p), 4) for p in _PERCENTILES},
            "step_max_s": round(max(self._seconds), 4),
        }

    def _of_all_ranks(self) -> dict[str, float | None]:
        """Memory of the rank that has most, 10^9 bytes; share of all devices' peak."""
        cuda = self._device.type == "cuda"
        held = torch.cuda.max_memory_allocated(self._device) if cuda else 0
        most = torch.tensor(
            [self._process.memory_info().rss, held], dtype=torch.float64, device=self._device
        )
        dist.all_reduce(most, dist.ReduceOp.MAX)
        flops = torch.tensor([self._flops], dtype=torch.float64, device=self._device)
        dist.all_reduce(flops)
        rss, peak_held = most.tolist()
        found: dict[str, float | None] = {"rss_gb": round(rss / 1e9, 3)}
        if cuda:
            found["cuda_peak_gb"] = round(peak_held / 1e9, 3)
        share = float("nan")
        if self._peak.tflops:
            seconds = max(sum(self._seconds), 1e-9)
            share = flops.item() / seconds / (self._peak.tflops * 1e12)
        found["mfu"] = round(share, 5) if math.isfinite(share) else None
        return found

    def _bad_share(self, faults: Mapping[str, int]) -> dict[str, float | None]:
        """Of the visits that were loaded since the last call."""
        bad, seen = faults["bad"] - self._bad, faults["seen"] - self._seen
        self._bad, self._seen = faults["bad"], faults["seen"]
        return {"bad_share": round(bad / seen, 5) if seen > 0 else None}
