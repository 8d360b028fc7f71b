"""Every command on a page is one: its words, options and files exist, and a whole one is taken."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from launcher.cli import build_parser
from launcher.commands.usage import commands
from tests.conftest import ROOT

from .pages import PAGES, Shown, shown_commands

COMMANDS = dict(commands(build_parser()))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def gcg_problem(shown: Shown) -> str | None:
    """What is wrong with ``gcg ...``."""
    words = [word for word in shown.words[1:] if word not in ("...", "…", "|")]
    if not words or words[0] in ("--help", "-h") or words[0].isupper():
        return None
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    if name not in COMMANDS:
        groups = {command.split()[0] for command in COMMANDS}
        return None if words == [name] and name in groups else f"there is no command {name}"
    known = COMMANDS[name]._option_string_actions
    for word in words:
        option = re.match(r"--[a-z][a-z0-9-]*", word)
        if option and option[0] not in known:
            return f"gcg {name} has no option {option[0]}"
    if shown.whole:
        try:
            build_parser().parse_args([word.rstrip(".") or word for word in words])
        except SystemExit:
            return "is not taken"
    return None


def module_problem(words: list[str]) -> str | None:
    """What is wrong with ``python -m MODULE``, pytest's files among it."""
    if words[0] == "pytest":
        return file_problem(words[1:])
    ours = (ROOT / words[0].partition(".")[0]).is_dir()
    if ours and importlib.util.find_spec(words[0]) is None:
        return f"there is no module {words[0]}"
    return None


def file_problem(words: list[str]) -> str | None:
    for word in words:
        path = word.partition("::")[0]
        if path.startswith("tests/") and not (ROOT / path).exists():
            return f"there is no {path}"
    return None


def problem(shown: Shown) -> str | None:
    words = list(shown.words)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables for the command
        words.pop(0)
    match words:
        case ["gcg", *_]:
            return gcg_problem(Shown(shown.page, tuple(words), shown.whole))
        case ["make", target, *_] if shown.whole or re.fullmatch(r"[a-z-]+", target):
            return None if target in TARGETS else f"make has no target {target}"
        case ["python", "-m", *rest] if rest:
            return module_problem(rest)
        case ["pytest", *rest]:
            return file_problem(rest)
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page(page: Path):
    found = [(str(shown), why) for shown in shown_commands(page) if (why := problem(shown))]
    assert found == []


def test_there_are_commands_to_check():
    shown = [shown for page in PAGES for shown in shown_commands(page)]
    of_ours = [each for each in shown if each.words[0] == "gcg"]
    assert len([each for each in of_ours if each.whole]) >= 30
    assert set(COMMANDS) <= {
        name for each in of_ours for name in (" ".join(each.words[1:3]), *each.words[1:2])
    }


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("gcg fly", "there is no command fly"),
        ("gcg train --fast run.yaml", "gcg train has no option --fast"),
        ("gcg train", "is not taken"),
        ("make lunch", "make has no target lunch"),
        ("python -m benchmarks.nothing", "there is no module benchmarks.nothing"),
        ("pytest tests/nothing.py::test", "there is no tests/nothing.py"),
        ("A=1 pytest -s tests/nothing.py", "there is no tests/nothing.py"),
    ],
)
def test_what_is_wrong_is_found(words: str, why: str):
    assert problem(Shown(ROOT / "README.md", tuple(words.split()), whole=True)) == why
