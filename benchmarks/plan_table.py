"""What `gcg plan` says of four models on 8, 16 and 64 GPUs, as one table. Computed, not measured.

    python -m benchmarks.plan_table [--gpu-memory 80] [--gpus 8 16 64] [--json FILE]

No GPU, no weights, no network: the sizes of known models are in gcg/catalogue.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from launcher.config import parse_run_config
from launcher.planning import make_plan
from launcher.planning.timing import Hardware

BATCH = 128
XL = "Salesforce/instructblip-flan-t5-xl"
# Name in the table -> the model section's own fields.
MODELS: dict[str, dict[str, Any]] = {
    "flan-t5-xl": {"checkpoint": XL},
    "flan-t5-xxl": {"checkpoint": "Salesforce/instructblip-flan-t5-xxl"},
    "vicuna-13b": {"checkpoint": "Salesforce/instructblip-vicuna-13b"},
    "Llama-3.3-70B": {
        "checkpoint": XL,
        "llm": {"name": "meta-llama/Llama-3.3-70B-Instruct"},
    },
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Plans of four models, as one table.")
    parser.add_argument("--gpu-memory", type=float, default=80.0, help="GB, 10^9 bytes")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 16, 64])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args(argv)
    hardware = Hardware(memory=args.gpu_memory * 1e9)
    rows = [row(name, gpus, hardware) for name in MODELS for gpus in args.gpus]
    sys.stdout.write(table(rows))
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def run_tree(name: str, gpus: int) -> dict[str, Any]:
    """The published recipe's sizes (T 32, K 4, bf16), 4 questions a video, the LLM frozen."""
    return {
        "run": {"name": "plan"},
        "data": {
            "train": "nowhere",
            "questions_per_visit": 4,
            "streams": 64,
            "global_batch": BATCH,
            "contrast_group": 2,
        },
        "model": {"preset": "instructblip", **MODELS[name]},
        "optim": {"steps": 10_000},
        "engine": {"zero": 2, "micro_batch": 1},
        "scale": {"num_workers": gpus, "use_gpu": True},
    }


def row(name: str, gpus: int, hardware: Hardware) -> dict[str, Any]:
    """One model on so many GPUs: the cheapest way that fits, and the least memory of each stage
    with nothing offloaded."""
    plan = make_plan(parse_run_config(run_tree(name, gpus)), hardware, gpus=gpus)
    least = {
        zero: min(one.peak for one in plan.candidates if one.zero == zero and not one.offload)
        for zero in (1, 2, 3)
    }
    best = plan.best
    return {
        "model": name,
        "parameters": plan.census.total,
        "trained": plan.census.trained,
        "gpus": gpus,
        "least": least,
        "best": best
        and {
            "zero": best.zero,
            "recompute": list(best.recompute),
            "offload": list(best.offload),
            "micro_batch": best.micro_batch,
            "accumulation": best.accumulation,
            "peak": best.peak,
            "seconds": best.time.seconds,
            "pairs": best.time.pairs,
        },
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; GB are 10^9 bytes."""
    lines = [
        "| model | parameters, trained (B) | GPUs | least GB with ZeRO-1 / -2 / -3 | cheapest that "
        "fits | GB | s a step | pairs/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        least = " / ".join(f"{size / 1e9:.1f}" for size in one["least"].values())
        best = one["best"]
        if best is None:
            way = "none | – | – | –"
        else:
            again = " + ".join(best["recompute"]) or "nothing"
            if best["offload"]:
                again += f", offload {' + '.join(best['offload'])}"
            way = (
                f"ZeRO-{best['zero']}, recompute {again}, micro {best['micro_batch']} × "
                f"{best['accumulation']} | {best['peak'] / 1e9:.1f} | {best['seconds']:.2f} | "
                f"{best['pairs'] / best['seconds']:.0f}"
            )
        lines.append(
            f"| {one['model']} | {one['parameters'] / 1e9:.2f}, {one['trained'] / 1e9:.2f} | "
            f"{one['gpus']} | {least} | {way} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
