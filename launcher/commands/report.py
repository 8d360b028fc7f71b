"""`gcg report`: one page, or one JSON object, that tells how a run goes."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from launcher.commands import say
from launcher.errors import UserError

PAGE = "report.html"


def add_to(stages: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    stage = stages.add_parser(
        "report",
        help="one page on a run: losses, where the time went, what was left out",
        description="Works while the run goes on, after it, and after a crash; the page is one "
        "file that needs no network.",
    )
    stage.add_argument("folder", metavar="RUN", help="storage/name of its run file; or a URL")
    stage.add_argument("--out", type=Path, metavar="FILE", help=f"the page; RUN/{PAGE}")
    stage.add_argument(
        "--json", action="store_true", help="print the figures; a page only with --out"
    )
    stage.set_defaults(run=report)


def report(args: argparse.Namespace) -> int:
    from launcher.report.figures import run_figures
    from launcher.report.page import percent, render
    from launcher.storage.places import run_place

    folder = run_place(args.folder)
    figures = run_figures(folder, time.time())
    out = args.out or (None if args.json else folder / PAGE)
    if out is not None:
        _write(out, render(figures))
    if args.json:
        say(json.dumps(figures, indent=1, default=str))
        return 0
    state, share = figures["state"], figures["goodput"]["share"]
    say(f"{figures['run']}: {state['name']} at step {state['step']}, goodput {percent(share)}")
    say(str(out))
    return 0


def _write(out: Path, page: str) -> None:
    from launcher.storage.places import fault_of
    from launcher.storage.run_folder import write_text

    why = fault_of(lambda: write_text(out, page))
    if why is not None:
        raise UserError(f"--out {out}: {why}; name a file that can be written")
