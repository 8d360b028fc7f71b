"""Every figure of docs/performance.md and docs/scaling.md, in one command.

    make bench                                  # or: python -m benchmarks [--out DIR]
    python -m benchmarks --only gemm_share whole_step --write
    python -m benchmarks --quick                # does each of them run?

Each benchmark is a process of its own, one after another; what it measured is kept as
DIR/NAME.json, its curves as DIR/NAME.svg, and DIR/performance.md shows them all. ``--write`` puts
them into the pages of docs/, between the marks of their names. Where there is a GPU its tables come
with them; where there is none, the page says so.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import Result, draw, load, markdown

ROOT = Path(__file__).parents[1]
PAGES = ("performance.md", "scaling.md")
SUITE = (
    "grounding_module",
    "whole_step",
    "gemm_share",
    "compiled",
    "overlap",
    "padding",
    "plan_memory",
    "scaling",
    "scaling_table",
    "loader",
)
ON_GPU = (
    ("gpu_step", "--models", "flan-t5-xl", "vicuna-7b", "--zero", "1", "2", "3"),
    ("gpu_decode",),
    ("selection", "--device", "cuda"),
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the benchmarks and write their pages.")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of results")
    parser.add_argument("--only", nargs="+", choices=SUITE, default=SUITE, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="few rounds: does each of them run?")
    parser.add_argument("--write", action="store_true", help="also into the pages of docs/")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    failed = [name for name in args.only if not run(name, args.out, args.quick)]
    gpu = on_gpu(args.out) if tuple(args.only) == SUITE else None
    found = {name: load(kept(name, args.out)) for name in SUITE if kept(name, args.out).exists()}
    text = "\n".join(section(name, result, args.out) for name, result in found.items())
    (args.out / "performance.md").write_text(f"{text}\n{gpu or ''}", encoding="utf-8")
    if args.write:
        fresh = {name: result for name, result in found.items() if name in args.only}
        publish(fresh, gpu, ROOT / "docs")
    for name in failed:
        sys.stderr.write(f"{name}: failed; its output is {args.out / name}.log\n")
    return 1 if failed else 0


def kept(name: str, out: Path) -> Path:
    return out / f"{name}.json"


def run(name: str, out: Path, quick: bool) -> bool:
    """One benchmark in a process of its own; whether it came to its end."""
    kept(name, out).unlink(missing_ok=True)
    sys.stderr.write(f"{name}\n")
    command = [sys.executable, "-m", f"benchmarks.{name}", "--work", str(out / "work" / name)]
    command += ["--json", str(kept(name, out)), *(["--quick"] if quick else [])]
    with (out / f"{name}.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(command, stdout=log, stderr=log, check=False, cwd=ROOT)
    return done.returncode == 0


def on_gpu(out: Path) -> str:
    """What the benchmarks that need a GPU print; a line where there is none."""
    import torch

    if not torch.cuda.is_available():
        names = ", ".join(f"`{name}`" for name, *_ in ON_GPU)
        return f"There was no GPU: {names} did not run.\n"
    parts = []
    for name, *options in ON_GPU:
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        (out / f"{name}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        said = done.stdout if done.returncode == 0 else f"failed: {done.stderr[-500:]}"
        shown = said if said.startswith("|") else f"```text\n{said}```\n"
        parts.append(f"`python -m benchmarks.{' '.join([name, *options])}`:\n\n{shown}")
    return f"## On {torch.cuda.get_device_name()}\n\n" + "\n".join(parts)


def section(name: str, result: Result, pictures: Path) -> str:
    """A benchmark's part of a page, with the command; its curves are drawn into ``pictures``."""
    for curve in result.curves:
        draw(curve, pictures)
    head, _, rest = markdown(result).partition("\n")
    return f"{head}\n\n`python -m benchmarks --only {name}`\n{rest}"


def publish(found: dict[str, Result], gpu: str | None, docs: Path) -> None:
    """Put each part between its marks on a page: ``<!-- bench: NAME -->``, ``<!-- /bench -->``."""
    parts = {name: section(name, result, docs / "images") for name, result in found.items()}
    if gpu is not None:
        parts["gpu"] = gpu
    for page in (docs / name for name in PAGES):
        if not page.exists():
            continue
        text = page.read_text(encoding="utf-8")
        for name, part in parts.items():
            before, mark, rest = text.partition(f"<!-- bench: {name} -->\n")
            _, end, after = rest.partition("<!-- /bench -->")
            if mark and end:
                text = f"{before}{mark}\n{part}\n{end}{after}"
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
