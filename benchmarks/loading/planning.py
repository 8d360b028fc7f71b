"""What a rank needs to plan an epoch of 10^9 samples in 10^5 shards for 4,096 ranks.

`python -m benchmarks.loading.planning [SHARDS SAMPLES RANKS]` measures in a process of its own, so
that its peak memory is the plan's. The histograms stand for the shard list, which every rank reads.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.loading.child import serve
from benchmarks.memory import resident

QUESTIONS, PER_VISIT = 4, 2


def measure(shards: int, samples: int, ranks: int) -> dict[str, Any]:
    import numpy as np

    from dataloaders.plan import Plan

    size = samples // shards
    rng = np.random.default_rng(0)
    # {questions of a sample: samples}, another for each shard, of about equally many each
    shares = rng.multinomial(size, [1 / QUESTIONS] * QUESTIONS, shards).tolist()
    histograms = [dict(enumerate(share, start=1)) for share in shares]
    del shares

    def counts(shard: int) -> Sequence[int]:
        return [n for n, times in histograms[shard].items() for _ in range(times)]

    before, began = resident("VmHWM"), time.perf_counter()
    plan = Plan(
        histograms,
        counts,
        seed=1,
        num_streams=ranks,
        global_batch=2 * ranks,
        questions_per_visit=PER_VISIT,
    )
    made = time.perf_counter()
    plan.visits(0, 0, ranks // 2, ranks)
    first = time.perf_counter()
    last = plan.steps_per_epoch(7) - 1
    plan.visits(7, last, ranks // 2, ranks)
    return {
        "plan_s": made - began,
        "first_s": first - made,
        "other_epoch_s": time.perf_counter() - first,
        "added_bytes": resident("VmHWM") - before,
        "peak_bytes": resident("VmHWM"),
        "steps": last + 1,
    }


def main() -> None:
    serve(lambda: (measure, {}))


if __name__ == "__main__":
    sys.exit(main())
