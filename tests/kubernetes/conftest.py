"""Fixtures: each kustomization read in both ways, once a session, and the CRDs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from launcher.k8s.objects import kustomize_command

from . import crd
from .assemble import assemble
from .manifests import OVERLAYS, ROOT, Manifest, kustomize


@cache
def _read(how: str, folder: str) -> list[Manifest]:
    return kustomize(ROOT / folder) if how == "kustomize" else assemble(ROOT / folder)


@pytest.fixture(params=["kustomize", "assembled"])
def read(request: pytest.FixtureRequest) -> Callable[[str], list[Manifest]]:
    """`read(folder)`: the objects of a kustomization, a fresh copy each time."""
    if request.param == "kustomize" and kustomize_command() is None:
        pytest.skip("neither kubectl nor kustomize is installed")
    return lambda folder: copy.deepcopy(_read(request.param, folder))


@pytest.fixture(params=OVERLAYS)
def folder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def crds(shared: Path) -> crd.Crds:
    """Of KubeRay, Kueue and Prometheus; skips where they do not lie beside the checkout."""
    archive = shared / "k8s" / "crds.tgz"
    if not archive.is_file():
        pytest.skip(f"no CRDs: {archive} is absent")
    return crd.read_crds(archive)
