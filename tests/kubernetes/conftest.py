"""Fixtures: each kustomization read in both ways, and the CRDs where there are some."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from . import crd
from .manifests import KUSTOMIZATIONS, ROOT, Manifest, assemble, kustomize, kustomize_command


@cache
def _read(how: str, folder: str) -> list[Manifest]:
    return kustomize(ROOT / folder) if how == "kustomize" else assemble(ROOT / folder)


@pytest.fixture(params=["kustomize", "assembled"])
def read(request: pytest.FixtureRequest) -> Callable[[str], list[Manifest]]:
    """`read(folder)`: the objects of a kustomization, a fresh copy each time."""
    if request.param == "kustomize" and kustomize_command() is None:
        pytest.skip("neither kubectl nor kustomize is installed")
    return lambda folder: copy.deepcopy(_read(request.param, folder))


@pytest.fixture(params=KUSTOMIZATIONS)
def folder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def crds(shared: Path) -> crd.Crds:
    """KubeRay's CRDs; skips where the test data does not lie beside the checkout."""
    archive = shared / "k8s" / "crds.tgz"
    if not archive.is_file():
        pytest.skip(f"no CRDs: {archive} is absent")
    return crd.read_crds(archive)
