"""What is asked of the Dockerfile: hadolint's rules, and what it has no rule for."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dockerfile_parse import DockerfileParser

from launcher.doctor.checks import CHECKS
from tests.conftest import ROOT

_PINNED = re.compile(r"[a-z0-9./-]+:[\w][\w.-]*@sha256:[0-9a-f]{64}")
_SECRET = re.compile(r"password|passwd|secret|token|api_?key|credential", re.IGNORECASE)
# Checks that take no more than a moment and leave the GPU and torch alone.
_CHEAP = {"packages", "cores", "memory", "shm", "limits"}


def hadolint(text: str) -> list[str]:
    """A line for each finding, with the rule's code in front."""
    scripts = sysconfig.get_path("scripts")
    program = shutil.which("hadolint", path=scripts) or shutil.which("hadolint")
    assert program, "hadolint is not installed: pip install -c constraints.txt -e '.[dev]'"
    command = [program, "--config", str(ROOT / ".hadolint.yaml"), "--format", "json", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert not done.stderr, done.stderr
    return [
        f"{each['code']} line {each['line']}: {each['message']}" for each in json.loads(done.stdout)
    ]


def faults(text: str) -> list[str]:
    """A line for each of our own rules that is broken."""
    file: Any = io.BytesIO(text.encode())  # the library's annotation says None
    parser = DockerfileParser(fileobj=file)
    instructions = [(each["instruction"], each["value"]) for each in parser.structure]
    stages: dict[str, list[tuple[str, str]]] = {}
    for number, (name, value) in enumerate(instructions):
        if name == "FROM":
            stage = value.split()[-1] if " AS " in value else str(number)
            stages[stage] = []
        elif stages:
            stages[next(reversed(stages))].append((name, value))
    return [
        *_bases(parser.parent_images, set(stages)),
        *_everywhere(instructions),
        *(line for stage in ("cpu", "gpu") for line in _target(stage, stages)),
    ]


def _bases(images: Sequence[str], stages: set[str]) -> Iterator[str]:
    for image in images:
        if image not in stages and not _PINNED.fullmatch(image):
            yield f"FROM {image}: must name a tag and a digest"


def _everywhere(instructions: list[tuple[str, str]]) -> Iterator[str]:
    for name, value in instructions:
        if name == "ADD":
            yield f"ADD {value}: use COPY; what is fetched must be pinned and checked"
        if name in ("ARG", "ENV") and _SECRET.search(value):
            yield f"{name} {value}: stays in the image for whoever has it; use a secret mount"
        if name == "RUN" and re.search(r"(?<!\w)(g\+\+|gcc|build-essential|nvcc)(?!\w)", value):
            yield f"RUN {value}: no compiler is needed"


def _target(stage: str, stages: dict[str, list[tuple[str, str]]]) -> Iterator[str]:
    if stage not in stages:
        yield f"{stage}: no such target"
        return
    users = [value for name, value in stages[stage] if name == "USER"]
    if users[-1:] != ["1000:1000"]:
        yield f"{stage}: USER must be 1000:1000 at last"
    base = dict(stages.get("base", []))
    if "ENTRYPOINT" in {**base, **dict(stages[stage])}:
        yield f"{stage}: no ENTRYPOINT: Kubernetes and Ray give commands of their own"
    if "HOME=/home/gcg" not in base.get("ENV", ""):
        yield f"{stage}: HOME must be /home/gcg, which the manifests mount"
    yield from _health(stage, base.get("HEALTHCHECK", ""))


def _health(stage: str, value: str) -> Iterator[str]:
    _, _, command = value.partition("CMD ")
    try:
        words = json.loads(command)
    except ValueError:
        yield f"{stage}: HEALTHCHECK must be a command in exec form"
        return
    known = {check.name for check in CHECKS}
    asked = set(words[3].split(",")) if words[:3] == ["gcg", "doctor", "--only"] else {"?"}
    if not asked <= known & _CHEAP:
        yield f"{stage}: HEALTHCHECK {shlex.join(words)}: only {', '.join(sorted(_CHEAP))}"


def context(out: Path) -> Path:
    """A copy of what .dockerignore lets through, as the builder would get it."""
    kept = [line[1:] for line in _ignore_lines() if line.startswith("!")]
    left_out = shutil.ignore_patterns(
        *(line.removeprefix("**/") for line in _ignore_lines() if line.startswith("**/"))
    )
    for name in kept:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, out / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, out / name)
    return out


def _ignore_lines() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]
