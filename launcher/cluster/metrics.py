"""Prometheus metrics of a run, through the exporter that Ray has on every node.

Their names on a page that is scraped are these with ``ray_`` in front, and ``_total`` behind those
of counters; each has the label ``run``. docs/observability.md lists them.
"""

from __future__ import annotations

from typing import Any

from launcher.observe.sinks import Numbers

# name -> (kind of line, number in it, what it is)
GAUGES: dict[str, tuple[str, str, str]] = {
    "gcg_step": ("train", "", "updates made"),
    "gcg_loss": ("train", "loss", "loss of the last logged step"),
    "gcg_pairs_per_second": ("train", "pairs_per_s", "question-video pairs a second"),
    "gcg_step_seconds": ("train", "step_s", "mean seconds of a step, waiting included"),
    "gcg_step_p99_seconds": ("train", "step_p99_s", "99th percentile of the same"),
    "gcg_data_wait_share": ("train", "data_wait_share", "share of it that was waited for data"),
    "gcg_goodput": ("train", "goodput", "useful step time / wall time of the run so far"),
    "gcg_mfu": ("train", "mfu", "model FLOPs a second / peak"),
    "gcg_bad_clips": ("train", "bad", "visits whose clip could not be used, in this attempt"),
    "gcg_rss_bytes": ("train", "rss_gb", "memory of the rank that holds most"),
    "gcg_val_accuracy": ("val", "accuracy", "accuracy on the validation split"),
}
COUNTERS: dict[str, tuple[str, str, str]] = {
    "gcg_checkpoint_stall_seconds": ("saved", "stall_s", "seconds stood still for checkpoints"),
    "gcg_checkpoints": ("saved", "", "checkpoints saved"),
    "gcg_skipped_steps": ("bad_step", "", "updates left out"),
    "gcg_roll_backs": ("roll_back", "", "times that training went back to a checkpoint"),
}
_GB = {"gcg_rss_bytes"}


class RayMetrics:
    """Ray must be initialised in this process."""

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Counter, Gauge

        self._gauges: dict[str, Any] = {}
        self._counters: dict[str, Any] = {}
        for kind, table, made in (
            (Gauge, GAUGES, self._gauges),
            (Counter, COUNTERS, self._counters),
        ):
            for name, (_, _, words) in table.items():
                made[name] = kind(name, description=words, tag_keys=("run",))
                made[name].set_default_tags({"run": run})

    def write(self, kind: str, step: int, numbers: Numbers) -> None:
        for name, (of, number, _) in GAUGES.items():
            value = numbers.get(number) if number else step
            if of == kind and value is not None:
                self._gauges[name].set(value * 1e9 if name in _GB else value)
        for name, (of, number, _) in COUNTERS.items():
            amount = numbers.get(number, 0.0) if number else 1
            if of == kind and amount > 0:
                self._counters[name].inc(amount)

    def rewind(self, step: int) -> None:
        self._gauges["gcg_step"].set(step)

    def close(self) -> None:
        """Nothing: Ray sends the last values on its own."""
