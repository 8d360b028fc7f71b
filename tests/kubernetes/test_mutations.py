"""Broken variants of our own manifests: each is noticed, so a clean verdict means something."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from launcher.config.file import apply_override

from . import checks, crd, operator_rules
from .assemble import assemble
from .conftest import Combined
from .manifests import GPU_OVERLAY, ROOT, Manifest, apply_operation, load_file, one, run_files

Case = dict[str, Any]
(BROKEN,) = load_file(Path(__file__).with_name("broken.yaml"))


def cases(group: str) -> Any:
    """The cases of a group of broken.yaml, each named by what it breaks."""
    found: list[Case] = BROKEN[group]
    names = [case.get("what") or f"{case['object']}: {case['told']}" for case in found]
    return pytest.mark.parametrize("case", found, ids=names)


@cache
def _clean() -> list[Manifest]:
    return assemble(ROOT / GPU_OVERLAY)


@pytest.fixture
def docs() -> list[Manifest]:
    return copy.deepcopy(_clean())


def complaints(docs: list[Manifest], crds: crd.Crds | None = None) -> list[str]:
    found = checks.problems(docs, crds)
    # Of what has no right shape the rest cannot be asked.
    return found if crds is not None and found else [*found, *checks.agreement_problems(docs)]


def change(doc: Manifest, case: Case) -> None:
    """An operation of RFC 6902, or `set`: several keys of one mapping at once."""
    path = Template(case["at"]).substitute(BROKEN["places"])
    if case["op"] != "set":
        apply_operation(doc, case["op"], path, case.get("value"))
        return
    for key, value in case["value"].items():
        apply_operation(doc, "add", f"{path}/{key}", value)


def named(docs: list[Manifest], what: str) -> Manifest:
    """The first object of a kind, or the one of that kind and name."""
    kind, _, name = what.partition(" ")
    return next(d for d in docs if d["kind"] == kind and name in ("", d["metadata"]["name"]))


def told(case: Case, found: list[str]) -> bool:
    return any(case["told"] in line for line in found)


def test_unbroken(docs: list[Manifest]):
    assert complaints(docs) == []


@cases("rayjob")
def test_broken_rayjob(case: Case, docs: list[Manifest]):
    job = one(docs, "RayJob")
    change(job, case)
    # A RayJob without containers renders no Pod, so that one is the operator's alone to refuse.
    empty = case["at"].endswith("/containers")
    found = operator_rules.problems(job) if empty else complaints(docs)
    assert told(case, found), found


@cases("run_file")
def test_broken_run_file(case: Case, docs: list[Manifest]):
    files = run_files(docs)
    tree = yaml.safe_load(files["run.yaml"])
    apply_override(tree, case["setting"])
    files["run.yaml"] = yaml.safe_dump(tree)
    found = checks.agreement_problems(docs)
    assert told(case, found), found


@cases("shape")
def test_broken_shape(case: Case, docs: list[Manifest], crds: crd.Crds):
    change(one(docs, "RayJob"), case)
    found = complaints(docs, crds)
    assert told(case, found), found


@cases("other_objects")
def test_broken_object(case: Case, docs: list[Manifest]):
    change(named(docs, case["object"]), case)
    found = complaints(docs)
    assert told(case, found), found


@cases("components")
def test_broken_component(case: Case, combined: Combined):
    docs = combined(["kueue", "monitoring", "spot"])
    change(named(docs, case["object"]), case)
    found = complaints(docs)
    assert told(case, found), found


def test_suspended_needs_shutdown(docs: list[Manifest]):
    job = one(docs, "RayJob")
    job["spec"].update(suspend=True, shutdownAfterJobFinishes=False)
    assert "spec.suspend: needs shutdownAfterJobFinishes" in operator_rules.problems(job)


def test_neither_cluster_nor_selector(docs: list[Manifest]):
    job = one(docs, "RayJob")
    del job["spec"]["rayClusterSpec"]
    assert any("one of rayClusterSpec" in line for line in operator_rules.problems(job))
    job["spec"]["clusterSelector"] = {"ray.io/cluster": "mine"}
    assert operator_rules.problems(job) == []
