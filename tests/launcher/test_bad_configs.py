"""Run files that are refused: the cases of ``bad_configs.yaml``, by the real command."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

import pytest
import torch
import yaml

from launcher.checks.arithmetic import cpu_computes_fp16
from launcher.train import main
from tests.launcher.bad_places import PLACES
from tests.launcher.conftest import run_tree

ROOT = Path(__file__).resolve().parents[2]
CASES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "bad_configs.yaml").read_text(encoding="utf-8")
)
# Where a case is refused at all. The reason is what a skip says.
NEEDS: dict[str, Callable[[], bool]] = {
    "a user who is not root": lambda: os.geteuid() != 0,
    "no gcsfs": lambda: find_spec("gcsfs") is None,
    "aiohttp": lambda: find_spec("aiohttp") is not None,
    "no GPU": lambda: torch.cuda.device_count() == 0,
    "no GPU and no bitsandbytes": lambda: (
        torch.cuda.device_count() == 0 and find_spec("bitsandbytes") is None
    ),
    "a CPU without fp16": lambda: not cpu_computes_fp16(),
    "a process of its own": lambda: False,  # see test_no_worker_is_started
}
# By a process of its own: one of each kind of check, and what cannot be done in this process.
ALONE = (
    "a key that is misspelt",
    "a bracket that is not closed",
    "a batch that does not come out even",
    "a folder that there is not",
    "labels for other frames and moments",
    "no room for an answer",
    "no space left",
)


def test_there_are_many_cases():
    names = [case["name"] for case in CASES]
    assert len(names) == len(set(names)) >= 70
    assert set(ALONE) <= set(names)
    assert {case["place"] for case in CASES if "place" in case} == set(PLACES)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_bad_run_file_is_refused(
    case: dict[str, Any], packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if "needs" in case and not NEEDS[case["needs"]]():
        pytest.skip(f"needs {case['needs']}")
    arguments, names = arrange(case, packed, tmp_path)
    before = contents(tmp_path)
    capsys.readouterr()  # libraries speak while a model is written
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    check_told(told.err.splitlines(), case, names)
    assert contents(tmp_path) == before, "it left something behind"


_CHILD = """
import json, logging, resource, sys
from launcher.train import main
for arguments, limit in json.load(sys.stdin):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    print("code", main(arguments), file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
print("ray" if any(name.split(".")[0] in ("ray", "deepspeed") for name in sys.modules) else "none")
"""


def test_no_worker_is_started(packed: Path, tmp_path: Path):
    cases = [case for case in CASES if case["name"] in ALONE]
    jobs, folders = [], []
    for number, case in enumerate(cases):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        arguments, _ = arrange(case, packed, folders[-1])
        jobs.append((arguments, case.get("file_limit")))
    before = contents(tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    assert ran.stdout == "none\n"  # Ray starts workers, and it was not even imported
    assert contents(tmp_path) == before
    parts = ran.stderr.split("code 2\n")
    assert parts.pop() == ""
    for part, case, folder in zip(parts, cases, folders, strict=True):
        check_told(part.splitlines(), case, placeholders(packed, folder))


def test_a_dry_run_checks_and_writes_nothing(
    packed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    from launcher.cli import main as gcg

    caplog.set_level("INFO")
    arguments, _ = arrange({}, packed, tmp_path)
    before = contents(tmp_path)
    assert main([*arguments, "--dry-run"]) == 0
    assert gcg(["train", arguments[1], "--dry-run"]) == 0
    assert caplog.text.count("is ready; the run begins, 4 steps of 4 visits") == 2
    assert gcg(["train", arguments[1], "--dry-run", "--set", "data.train=nowhere"]) == 2
    assert contents(tmp_path) == before


def arrange(case: Mapping[str, Any], packed: Path, tmp: Path) -> tuple[list[str], dict[str, str]]:
    """Write a case's run file, and what else must lie there; the command's arguments."""
    names = placeholders(packed, tmp)
    tree = run_tree(packed, tmp / "runs")
    if "place" in case:
        PLACES[case["place"]](tmp, packed, deepcopy(tree))
    file = Path(names["file"])
    file.write_text(_text(case, names, tree), encoding=case.get("encoding", "utf-8"))
    arguments = ["--config", _filled(case["file"], names) if "file" in case else str(file)]
    for override in case.get("set", ()):
        arguments += ["--set", _filled(override, names)]
    return arguments, names


def _text(case: Mapping[str, Any], names: Mapping[str, str], tree: dict[str, Any]) -> str:
    if "text" in case:
        return case["text"]
    if "nested" in case:
        return f"run: {'[' * case['nested']}"
    if "laughs" in case:  # each line holds the one before nine times
        lines = ["- &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
        for n in range(1, case["laughs"]):
            lines.append(f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]")
        name = "\n    ".join(lines)
        return f"run:\n  name:\n    {name}\ndata: {{train: a}}\noptim: {{steps: 1}}\n"
    change = _filled(case.get("change", {}), names)
    if "length" in case:
        word = "x" * case["length"]
        change = {"data": {"val": f"/{word}"}} if "field" in case else {"run": {"name": word}}
    return yaml.safe_dump(_laid_over(tree, change), allow_unicode=False)


def _laid_over(tree: dict[Any, Any], change: Mapping[Any, Any]) -> dict[Any, Any]:
    found = dict(tree)
    for key, value in change.items():
        below = found.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            value = _laid_over(below, value)
        found[key] = value
    return found


def placeholders(packed: Path, tmp: Path) -> dict[str, str]:
    return {"packed": str(packed), "tmp": str(tmp), "file": str(tmp / "run.yaml")}


def _filled(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, names) for each in value]
    return Template(value).safe_substitute(names) if isinstance(value, str) else value


def check_told(lines: list[str], case: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Each line is ``error: setting = value: rule; remedy``, as the case has it, in its order."""
    assert len(lines) == len(case["told"]), lines
    for line, expected in zip(lines, case["told"], strict=True):
        setting, value, rule, remedy = _filled(expected, names)
        start = f"error: {setting}" + ("" if value is None else f" = {value}")
        start = start.removesuffix("…") if start.endswith("…") else f"{start}: "
        assert line.startswith(start), (line, start)
        found = re.search(re.escape(rule), line[len(start) :])
        assert found, (line, rule)
        _, semicolon, advice = line[len(start) + found.start() :].partition("; ")
        assert semicolon, line
        assert remedy in advice, (line, remedy)


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder, with a hash of what it holds."""
    return dict(_contents(folder))


def _contents(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        held = "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
        yield str(path.relative_to(folder)), held
