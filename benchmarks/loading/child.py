"""One contender in a process of its own, and the other end of the pipe to it.

The two talk in JSON lines. A library that prints does so to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def cpu_seconds() -> float:
    """User and system time of this process and of the children it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


class Child:
    """A process that answers requests, one at a time.

    Raises:
        ChildError: it cannot start, or a request fails; with its own words.
    """

    def __init__(self, module: str, arguments: Sequence[str], sites: Sequence[Path] = ()) -> None:
        paths = [str(ROOT), *map(str, sites)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        try:
            self.about = self._answer()
        except ChildError:
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then the answer says what happened
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildError(f"the process ended with exit code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class ChildError(RuntimeError):
    pass


def serve(make: Any) -> None:
    """Answer requests with what ``make()`` returns: a function of keyword arguments."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        out.write(json.dumps(answer) + "\n")
        out.flush()

    try:
        answer, about = make()
        say(about)
        for line in sys.stdin:
            say(answer(**json.loads(line)))
    except Exception as error:
        say({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]})


def _contender(name: str, folder: Path) -> Any:
    import torch

    from benchmarks.loading.contenders import CONTENDERS

    torch.set_num_threads(1)
    make, _ = CONTENDERS[name]
    run = make(folder)

    def answer(path: str, frame_count: int, num_frames: int, copies: int) -> dict[str, Any]:
        data = Path(path).read_bytes()
        began, clock = cpu_seconds(), time.perf_counter()
        # What each frame looks like, to be compared: its mean.
        looks = [frames.mean((1, 2, 3)) for frames in run(data, frame_count, num_frames, copies)]
        cpu, wall = cpu_seconds() - began, time.perf_counter() - clock
        assert len(looks) == copies, (len(looks), copies)
        return {"cpu": cpu / copies, "wall": wall / copies, "looks": looks[0].tolist()}

    return answer, {}


if __name__ == "__main__":
    serve(lambda: _contender(sys.argv[1], Path(sys.argv[2])))
