"""`gcg report`: one page, or one JSON object, that tells how a run goes."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from launcher.commands import say
from launcher.errors import UserError

PAGE = "report.html"
MOST = 50


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "report",
        help="one page on a run: losses, where the time went, answers with film strips",
        description="Works while the run goes on, after it, and after a crash; the page is one "
        "file that needs no network. Answers are those that `gcg eval` left in the run's folder.",
    )
    stage.add_argument("folder", metavar="RUN", help="storage/name of its run file; or a URL")
    stage.add_argument(
        "--against", nargs="+", default=[], metavar="RUN", help="runs to compare its answers with"
    )
    stage.add_argument(
        "--split", choices=["test", "val", "train"], help="the first of these that was evaluated"
    )
    stage.add_argument(
        "--examples", type=_count, default=4, metavar="N", help=f"of each kind, 0 to {MOST}; 4"
    )
    stage.add_argument("--out", type=Path, metavar="FILE", help=f"the page; RUN/{PAGE}")
    stage.add_argument(
        "--json", action="store_true", help="print the figures; a page only with --out"
    )
    stage.set_defaults(run=report)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > MOST:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a number from 0 to {MOST}")
    return int(text)


def report(args: argparse.Namespace) -> int:
    from launcher.report.evaluation import evaluation_figures, read_evaluation
    from launcher.report.figures import run_figures
    from launcher.report.page import render
    from launcher.report.shown import show
    from launcher.report.words import percent, size
    from launcher.storage.places import run_place

    folder = run_place(args.folder)
    figures = run_figures(folder, time.time())
    found = read_evaluation(folder, [run_place(run) for run in args.against], args.split)
    answers = evaluation_figures(found)
    out = args.out or (None if args.json else folder / PAGE)
    page = ""
    if out is not None:
        page = render(figures, answers, show(found, args.examples))
        _write(out, page)
    if args.json:
        say(json.dumps({**figures, "evaluation": answers}, indent=1, default=str))
        return 0
    state, share = figures["state"], figures["goodput"]["share"]
    say(f"{figures['run']}: {state['name']} at step {state['step']}, goodput {percent(share)}")
    for note in found.notes:
        say(f"note: {note}")
    say(f"{out} ({size(len(page.encode()))})")
    return 0


def _write(out: Path, page: str) -> None:
    from launcher.storage.places import fault_of
    from launcher.storage.run_folder import write_text

    why = fault_of(lambda: write_text(out, page))
    if why is not None:
        raise UserError(f"--out {out}: {why}; name a file that can be written")
