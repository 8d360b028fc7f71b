"""What grounds better than the published form: variants on frozen features, without any span.

    python -m benchmarks.grounding_study --data sample --corpus DIR --seeds 5 --out DIR
    python -m benchmarks.grounding_study --data real --annotations DIR --seeds 5 --out DIR

Features are made once and kept in DIR. A finished run is a line of DIR/<data>-<split>.jsonl, its
frame weights a file beside it; it is not repeated, and ``--measure-again`` measures what is kept
anew. One thread; docs/grounding.md has the tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch.serialization import safe_globals

from benchmarks.study import corpus, real
from benchmarks.study.features import Features, cached
from benchmarks.study.rows import Rows
from benchmarks.study.table import markdown, read_runs
from benchmarks.study.train import Prediction, measure, run
from benchmarks.study.variants import VARIANTS


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    torch.set_num_threads(1)
    try:
        features = _features(args)
    except (FileNotFoundError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    path = args.out / f"{args.data}-{args.split}.jsonl"
    names = args.variants or [n for n in VARIANTS if _fits(n, features)]
    rows = Rows(features)
    if args.measure_again:
        _measure_again(rows, path)
    _train(rows, names, args.seeds, path)
    for extraction in args.extractions:
        sys.stdout.write(f"\n{args.data}, {args.split}, spans by {extraction}\n\n")
        wanted = [kept for kept in read_runs(path) if kept["variant"] in names]
        sys.stdout.write(markdown(wanted, extraction) + "\n")
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=("sample", "real"), required=True)
    parser.add_argument("--corpus", type=Path, help="sample: the folder of `gcg sample-data`")
    parser.add_argument("--annotations", type=Path, help="real: nextqa/, nextgqa/, captions/")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), metavar="NAME")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--extractions", nargs="+", default=["benchmark", "half height"])
    parser.add_argument("--measure-again", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(argv)


def _features(args: argparse.Namespace) -> Features:
    """Raises FileNotFoundError where the data set is not there."""
    kept = args.out / f"{args.data}.pt"
    source = args.corpus if args.data == "sample" else args.annotations
    if source is None and not kept.exists():
        option = "--corpus" if args.data == "sample" else "--annotations"
        raise FileNotFoundError(f"{kept}: no features yet; give {option} to make them from")
    build = corpus.build if args.data == "sample" else real.build
    return cached(kept, partial(build, source))


def _fits(name: str, features: Features) -> bool:
    """Whether the data set has what the variant reads."""
    variant = VARIANTS[name]
    return features.sentences is not None or not variant.needs_sentences


def _train(rows: Rows, names: list[str], seeds: int, path: Path) -> None:
    """Every variant and seed that is not kept yet, seed by seed."""
    done = {(kept["variant"], kept["seed"]) for kept in read_runs(path)}
    for seed in range(seeds):
        for name in names:
            variant = VARIANTS[name]
            # What is not trained has no seed.
            if (name, seed) in done or (seed and not variant.trained):
                continue
            began = time.process_time()
            said = run(rows, variant, seed, path.stem.rpartition("-")[2])
            seconds = round(time.process_time() - began, 1)
            weights = _weights(path, name, seed)
            weights.parent.mkdir(exist_ok=True)
            torch.save(said, weights)
            line = {"variant": name, "seed": seed, "seconds": seconds}
            with path.open("a") as file:
                file.write(json.dumps({**line, "figures": measure(rows, said)}) + "\n")
            sys.stderr.write(f"{name} seed {seed}: {seconds} s\n")


def _measure_again(rows: Rows, path: Path) -> None:
    """New figures of all kept runs, from their frame weights."""
    lines = []
    for kept in read_runs(path):
        with safe_globals([Prediction]):
            said = torch.load(_weights(path, kept["variant"], kept["seed"]), weights_only=True)
        lines.append(json.dumps({**kept, "figures": measure(rows, said)}) + "\n")
    path.write_text("".join(lines))


def _weights(path: Path, name: str, seed: int) -> Path:
    return path.with_suffix("") / f"{name}-{seed}.pt"


if __name__ == "__main__":
    sys.exit(main())
