"""Run files with anything in them: accepted, or told of setting by setting; never a traceback."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from launcher.checks.preflight import preflight
from launcher.config import RunConfig, dump, load_run_config, parse_run_config
from launcher.errors import UserError
from tests.launcher.conftest import run_tree
from tests.launcher.plausible_values import PLAUSIBLE

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# Values that are wrong nearly everywhere, and some that are right in one place or another.
ODD: list[Any] = [
    None, True, False, 0, 1, 2, 3, 7, -1, 2**31 - 1, 2**31, 2**63, 10**30, 16**6000, 0.0, 0.5, 1.0,
    1e-300, 1e300, math.nan, math.inf, -math.inf, "", " ", ".", "..", "/", "~", "~nobody/x", "0",
    "1e3", "null", "a/../b", "a\0b", "a\nb", "\ud800", "\u202e", "é", "x" * 300, "memory://x",
    "nope://x", "file:///x", "file://[", "://", "s3://", "{question", "{}", "{question}", "[", "(",
    [], [1], [[]], [None], {}, {"a": 1}, {1: 2}, {None: None}, b"\xff", (1,), {1, 2},
    "fp16", "dali", "features", "released", "plus", "oracle", "uniform", "lora", "nf4", "llm",
    "instructblip", "flash_attention_2", "roll_back", "soft",
]  # fmt: skip
junk = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=5,
)
names = st.sampled_from(["steps", "nmae", "lr ", "", "train", "é", 7, None, True, "a.b", "x" * 99])


def whole_tree(packed: Path, storage: Path) -> dict[str, Any]:
    """A right run file with every key, and a mixture."""
    config = parse_run_config(run_tree(packed, storage))
    tree = yaml.safe_load(dump(config))
    place = tree["data"].pop("train")
    tree["data"] |= {"train": None, "mixture": [{"place": place, "repeat": 2, "weight": None}]}
    return tree


def paths(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in a tree, the sections before what is in them."""
    if path:
        yield path
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from paths(value, (*path, key))


def near(value: Any) -> st.SearchStrategy[Any]:
    """Values of the kind of ``value``: the rules behind the types are reached by these."""
    if isinstance(value, bool):
        return st.just(not value)
    if isinstance(value, (int, float)):
        return st.sampled_from([1, 2, 3, 4, 5, 6, 8, 64, 0.25, 0.99, 10**5, 2**31 - 1])
    return st.sampled_from([odd for odd in ODD if isinstance(odd, (str, int)) or odd is None])


def text(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # Python writes no integer of 5,000 digits
        return "9" * 5000


@st.composite
def mutations(draw: st.DrawFn, tree: dict[str, Any]) -> dict[str, Any]:
    """``tree`` with one to three of its places spoilt."""
    tree = deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(list(paths(tree))))
        node: Any = tree
        for part in above:
            node = node[part]
        kind = draw(st.sampled_from(["replace", "near", "near", "near", "delete", "wrap", "add"]))
        if kind == "replace":
            node[key] = draw(junk)
        elif kind == "near":
            node[key] = draw(near(node[key]))
        elif kind == "delete":
            del node[key]
        elif kind == "wrap":
            node[key] = draw(st.sampled_from([[node[key]], {"value": node[key]}, text(node[key])]))
        elif isinstance(node, dict):
            node[draw(names)] = draw(junk)
    return tree


@st.composite
def plausible(draw: st.DrawFn, tree: dict[str, Any], packed: Path) -> dict[str, Any]:
    """``tree`` with one to four settings of :data:`PLAUSIBLE`."""
    tree = deepcopy(tree)
    chosen = draw(st.lists(st.sampled_from(sorted(PLAUSIBLE)), min_size=1, max_size=4, unique=True))
    for setting in chosen:
        *above, key = setting.split(".")
        node: Any = tree
        for part in above:
            node = node[part]
        value = draw(st.sampled_from(PLAUSIBLE[setting]))
        node[key] = json.loads(json.dumps(value).replace("$packed", str(packed)))
    if tree["data"]["train"] is not None:
        tree["data"]["mixture"] = []
    return tree


def told_by(action: Callable[[], object]) -> list[str]:
    """The lines of a user error. Any other error comes out, and fails the test."""
    try:
        action()
    except UserError as error:
        return error.lines or ["an error that says nothing"]
    return []


def check_lines(lines: list[str], *others: str) -> None:
    """Each names a setting of the run file, or begins with one of ``others``; and a remedy."""
    for line in lines:
        assert "\n" not in line
        assert "; " in line, line
        first = re.match(r"\w+", line)
        known = first is not None and first[0] in RunConfig.model_fields
        unknown = re.search(r": (unknown key|a key must be text); ", line)
        assert known or unknown or line.startswith(others), line


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub is asked, and relative paths lie in a folder of the test's."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


def check_tree(tree: dict[str, Any]) -> None:
    lines = told_by(lambda: preflight(parse_run_config(tree)))
    check_lines(lines)


@pytest.mark.usefixtures("offline")
@settings(quick, max_examples=100)
@given(data=st.data())
def test_any_spoilt_tree_is_explained(data: st.DataObject, packed: Path, tmp_path: Path):
    check_tree(data.draw(mutations(whole_tree(packed, tmp_path / "runs"))))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("offline")
@settings(quick, max_examples=40)
@given(data=st.data())
def test_any_plausible_tree_is_explained(data: st.DataObject, packed: Path, tmp_path: Path):
    check_tree(data.draw(plausible(whole_tree(packed, tmp_path / "runs"), packed)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
@settings(quick, max_examples=2000, derandomize=False)
@given(data=st.data())
def test_thousands_of_trees_are_explained(data: st.DataObject, packed: Path, tmp_path: Path):
    tree = whole_tree(packed, tmp_path / "runs")
    check_tree(data.draw(mutations(tree) | plausible(tree, packed)))


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_every_setting_with_odd_values(step: int, packed: Path, tmp_path: Path):
    tree = whole_tree(packed, tmp_path / "runs")
    accepted = 0
    for number, (*above, key) in enumerate(paths(tree)):
        for value in ODD[number % step :: step]:
            spoilt = deepcopy(tree)
            node: Any = spoilt
            for part in above:
                node = node[part]
            node[key] = value
            lines = told_by(lambda spoilt=spoilt: parse_run_config(spoilt))
            check_lines(lines)
            accepted += not lines
    assert accepted  # else nothing but the first rule was tried


SMALL = """run: {name: demo, seed: 1}
data:
  train: packed/train
  mixture: []
optim: &steps {steps: 100, lr: 1.0e-4, betas: [0.9, 0.999]}
engine:
  recompute: [llm]  # all
"""
SPLICES = st.sampled_from([
    *"{}[]:,-&*!|>%@`'\"#?\t\n\r \\~=<.\x00\x07\ufeff\u2028\ud800é0",
    "<<: *steps", "!!int ''", "!!bool x", "!!float ''", "!!timestamp x", "!!binary ?", "---\n",
    "...\n", "2024-13-01", "? ", "!!python/name:os.system", "&a [*a]", f"0x{'f' * 6000}",
    "9" * 5000, "190:20:30", "!!set {a}", "!!omap [a]", "!!pairs [a]", "[" * 1200, "=", "- ",
])  # fmt: skip


@st.composite
def spoilt_text(draw: st.DrawFn) -> str:
    text = SMALL
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 5)))
        text = text[:start] + draw(SPLICES | st.text(max_size=3)) + text[stop:]
    return text


def check_text(text: str, file: Path) -> None:
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    lines = told_by(lambda: load_run_config(file))
    check_lines(lines, f"{file}: ")


@settings(quick, max_examples=300)
@given(text=spoilt_text() | st.text(max_size=40))
def test_any_text_is_explained(text: str, tmp_path: Path):
    check_text(text, tmp_path / "run.yaml")


@pytest.mark.slow
@settings(quick, max_examples=20_000, derandomize=False)
@given(text=spoilt_text())
def test_thousands_of_texts_are_explained(text: str, tmp_path: Path):
    check_text(text, tmp_path / "run.yaml")


SETTINGS = st.sampled_from(
    ["optim.lr", "run.name", "data.mixture", "model.llm", "data.mixture.0", "engine", "x", ""]
)


@settings(quick, max_examples=200)
@example(override="run.name=2024-13-01")
@example(override="optim.lr=!!int ''")
@given(
    override=st.text(max_size=20)
    | st.builds("{}{}{}".format, SETTINGS, st.sampled_from(["=", "", ".a="]), SPLICES)
)
def test_any_override_is_explained(override: str, tmp_path: Path):
    file = tmp_path / "run.yaml"
    if not file.exists():
        file.write_text(SMALL, encoding="utf-8")
    check_lines(told_by(lambda: load_run_config(file, [override])), "--set ")
