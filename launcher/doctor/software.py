"""Python, the packages, and how long a new process takes to import them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from launcher.doctor.finding import Finding, Options

_NEEDED = ("torch", "numpy", "transformers", "peft", "pydantic", "av", "webdataset")
_OPTIONAL = {
    "train": (("ray", "deepspeed", "accelerate"), "`gcg train` needs them on every machine."),
    "dali": (("nvidia-dali-cuda130",), "With it data.decoder: dali decodes on GPUs (NVDEC)."),
}
_IMPORTED = ("torch", "transformers", "av", "ray.train", "deepspeed", "nvidia.dali")
_SLOW_S, _IMPORT_LIMIT_S = 20.0, 120.0


def packages(options: Options) -> Iterator[Finding]:
    number = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 10) <= sys.version_info[:2] < (3, 13)
    yield Finding(
        "python",
        "ok" if fits else "warning",
        f"{number} at {sys.executable}",
        "The packages below are released and tested together for Python 3.10 to 3.12.",
        "make the environment with one of these (`make setup PYTHON=python3.11`)",
    )
    there, absent = _versions(_NEEDED)
    yield Finding(
        "packages",
        "failed" if absent else "ok",
        f"not installed: {', '.join(absent)}; " * bool(absent) + ", ".join(there),
        "Without them no stage works.",
        "pip install -c constraints.txt gcg-train",
    )
    for extra, (names, why) in _OPTIONAL.items():
        there, absent = _versions(names)
        yield Finding(
            f"packages [{extra}]",
            "missing" if absent else "ok",
            f"not installed: {', '.join(absent)}" if absent else ", ".join(there),
            why,
            f"pip install -c constraints.txt 'gcg-train[{extra}]'",
        )


def _versions(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    there, absent = [], []
    for name in names:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            absent.append(name)
    return there, absent


def imports(options: Options) -> Iterator[Finding]:
    """Each package in a new process, as a worker starts."""
    times, absent = {}, []
    for name in _IMPORTED:
        try:
            found = find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            absent.append(name)
            continue
        code = (
            f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
        )
        try:
            child = subprocess.run(
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                timeout=_IMPORT_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            yield _import_failed(name, f"not imported within {_IMPORT_LIMIT_S:.0f} s")
            continue
        if child.returncode:
            last = (child.stderr.strip().splitlines() or ["no message"])[-1]
            yield _import_failed(name, f"exit code {child.returncode}: {last[:300]}")
        else:
            times[name] = float(child.stdout.split()[-1])
    yield Finding(
        "import times",
        "warning" if sum(times.values()) > _SLOW_S else "ok",
        ", ".join(
            [f"{name} {seconds:.1f} s" for name, seconds in times.items()]
            + [f"{name} not installed" for name in absent]
        ),
        "Every worker imports them when it starts, all workers of a machine at once; Ray gives a "
        "group of workers a limited time to start.",
        "put the environment on a local disk, compile it once (`python -m compileall -j 0 .venv`), "
        "or raise RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S",
    )


def _import_failed(name: str, found: str) -> Finding:
    return Finding(
        f"import {name}",
        "failed",
        found,
        "It is installed, but a worker that imports it dies.",
        f"install {name} again, in the version of constraints.txt",
    )
