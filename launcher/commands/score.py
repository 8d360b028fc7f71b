"""`gcg score`: a benchmark's official figures from a result file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from launcher.commands import say

BENCHMARKS = (
    "nextqa", "nextoe", "nextgqa", "intentqa", "causalvidqa", "star", "msvdqa", "msrvttqa",
    "activitynetqa", "table",
)  # fmt: skip
NOT_WHOLE = 1


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "score",
        help="official figures of a benchmark from a result file",
        description="Reads the benchmarks' own annotations and result files (docs/benchmarks.md) "
        "and prints their figures; what is missing, unknown or there twice is counted and said.",
    )
    stage.add_argument("benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help="%(choices)s")
    stage.add_argument("--annotations", type=Path, metavar="F", help="the benchmark's questions")
    stage.add_argument("--predictions", type=Path, metavar="F", help="answers, in its own format")
    stage.add_argument("--spans", type=Path, metavar="F", help="of answers: seconds by question")
    stage.add_argument("--share", action="store_true", help="--spans are shares of the video")
    stage.add_argument(
        "--weights", type=Path, metavar="F", help="in place of --spans: of the frames, by question"
    )
    stage.add_argument(
        "--frame-times", type=Path, metavar="F", help="of --weights: frame2time_*.json"
    )
    stage.add_argument(
        "--merge", action="store_true", help="both: what --spans and --weights have in common"
    )
    stage.add_argument(
        "--write-spans", type=Path, metavar="F", help="also write the spans that --weights give"
    )
    stage.add_argument(
        "--gold-spans", type=Path, metavar="F", help="nextgqa: gsub_<split>.json beside the CSV"
    )
    stage.add_argument("--ids", type=Path, metavar="F", help="causalvidqa: the videos of a split")
    stage.add_argument("--stopwords", type=Path, metavar="F", help="nextoe: its stopwords.txt")
    stage.add_argument(
        "--references", type=Path, metavar="F", help="nextoe: add_reference_answer_<split>.json"
    )
    stage.add_argument("--json", action="store_true")
    stage.add_argument(
        "--strict", action="store_true", help="exit code 1 if anything is missing or does not fit"
    )
    stage.set_defaults(run=score)


def score(args: argparse.Namespace) -> int:
    from dataclasses import fields

    from launcher.scoring.score import Inputs
    from launcher.scoring.score import score as score_files

    inputs = Inputs(**{field.name: getattr(args, field.name) for field in fields(Inputs)})
    result = score_files(args.benchmark, inputs)
    if args.json:
        say(json.dumps(result.as_json(), indent=1))
    else:
        say("\n".join(result.lines()))
    return NOT_WHOLE if args.strict and not result.whole else 0
