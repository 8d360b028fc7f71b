"""A check in a process of its own: what crashes or hangs there is a finding here."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.doctor.finding import Finding, Options

_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Check:
    """``function``: "module:name" of a function that takes Options and yields Findings."""

    name: str
    function: str
    limit_s: float = 60.0


def run_isolated(check: Check, options: Options) -> list[Finding]:
    """What the check found: all that came before a crash or the time limit, and then that."""
    with tempfile.TemporaryDirectory(prefix="gcg-doctor-") as folder:
        results = Path(folder, "findings.jsonl")
        errors = Path(folder, "stderr")
        end = _run(check, options, results, errors)
        found = _read(results)
        if end is not None:
            last = _last_line(errors)
            found.append(
                Finding(
                    check.name,
                    "failed",
                    end + (f"; its last words: {last}" if last else ""),
                    "What this check asks of the machine, a training worker asks of it, too.",
                    "look for the library named in the last words; the other checks are unaffected",
                )
            )
        return found


def _run(check: Check, options: Options, results: Path, errors: Path) -> str | None:
    """None if the child ended well, else how it ended."""
    command = [sys.executable, "-X", "faulthandler", "-m", "launcher.doctor.child"]
    arguments = [check.function, check.name, json.dumps(asdict(options)), str(results)]
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with errors.open("wb") as stderr:
        child = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            env=environment,
            start_new_session=True,  # so that what the check starts ends with it
        )
        try:
            code = child.wait(check.limit_s)
        except subprocess.TimeoutExpired:
            _kill(child)
            return f"no answer within {check.limit_s:.0f} s"
        except BaseException:
            _kill(child)
            raise
    if code < 0:
        return f"crashed ({signal.Signals(-code).name})"
    return None if code == 0 else f"ended with exit code {code}"


def _kill(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(5)  # a process stuck in a driver does not even die: it is left behind


def _read(results: Path) -> list[Finding]:
    if not results.exists():
        return []
    found = []
    for line in results.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, TypeError):  # a line cut short by a crash
            found.append(Finding(**json.loads(line)))
    return found


def _last_line(errors: Path) -> str:
    lines = errors.read_text(encoding="utf-8", errors="replace").splitlines()
    # faulthandler's report begins with what happened; an exception's ends with it.
    fatal = [line for line in lines if line.startswith("Fatal Python error")]
    return (fatal or [line for line in lines if line.strip()] or [""])[-1].strip()[:300]
