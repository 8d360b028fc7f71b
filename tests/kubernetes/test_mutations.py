"""Broken variants of our own manifests: each is noticed, so a clean verdict means something."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import yaml

from launcher.config_file import apply_override

from . import checks, crd, operator_rules
from .assemble import assemble
from .broken import COMBINED, OTHERS, POLICIES, RAYJOB, RUN, SCHEMA
from .conftest import Combined
from .manifests import GPU_OVERLAY, ROOT, Manifest, apply_operation, one, run_files


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


def change(doc: Manifest, op: str, path: str, value: Any) -> None:
    """An operation of RFC 6902, or `set`: several keys of one mapping at once."""
    if op != "set":
        apply_operation(doc, op, path, value)
        return
    for key, each in value.items():
        apply_operation(doc, "add", f"{path}/{key}", each)


def test_unbroken(docs: list[Manifest]):
    assert complaints(docs) == []


@pytest.mark.parametrize(
    ("op", "path", "value", "complaint"), [c[1:] for c in RAYJOB], ids=[c[0] for c in RAYJOB]
)
def test_broken_rayjob(op: str, path: str, value: Any, complaint: str, docs: list[Manifest]):
    job = one(docs, "RayJob")
    change(job, op, path, value)
    # A RayJob without containers renders no Pod, so that one is the operator's alone to refuse.
    empty = path.endswith("/containers")
    found = operator_rules.problems(job) if empty else complaints(docs)
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(("setting", "complaint"), [c[1:] for c in RUN], ids=[c[0] for c in RUN])
def test_broken_run_file(setting: str, complaint: str, docs: list[Manifest]):
    files = run_files(docs)
    tree = yaml.safe_load(files["run.yaml"])
    apply_override(tree, setting)
    files["run.yaml"] = yaml.safe_dump(tree)
    found = checks.agreement_problems(docs)
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("op", "path", "value", "complaint"), [c[1:] for c in SCHEMA], ids=[c[0] for c in SCHEMA]
)
def test_broken_shape(
    op: str, path: str, value: Any, complaint: str, docs: list[Manifest], crds: crd.Crds
):
    change(one(docs, "RayJob"), op, path, value)
    found = complaints(docs, crds)
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("what", "op", "path", "value", "complaint"),
    [*OTHERS, *POLICIES],
    ids=[f"{c[0]}-{c[4]}" for c in [*OTHERS, *POLICIES]],
)
def test_broken_builtin(
    what: str, op: str, path: str, value: Any, complaint: str, docs: list[Manifest]
):
    change(_named(docs, what), op, path, value)
    found = complaints(docs)
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("what", "op", "path", "value", "complaint"),
    [c[1:] for c in COMBINED],
    ids=[c[0] for c in COMBINED],
)
def test_broken_component(
    what: str, op: str, path: str, value: Any, complaint: str, combined: Combined
):
    docs = combined(["kueue", "monitoring", "spot"])
    change(_named(docs, what), op, path, value)
    found = complaints(docs)
    assert any(complaint in line for line in found), found


def _named(docs: list[Manifest], what: str) -> Manifest:
    kind, _, name = what.partition(" ")
    return next(d for d in docs if d["kind"] == kind and name in ("", d["metadata"]["name"]))


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
