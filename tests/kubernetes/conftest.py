"""Fixtures: each kustomization read in both ways, once a session, and the CRDs."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cli import main
from launcher.k8s.objects import kustomize_command

from . import crd
from .assemble import assemble
from .manifests import GPU_OVERLAY, OVERLAYS, ROOT, Manifest, kustomize, load_file

Combined = Callable[..., list[Manifest]]
Command = Callable[..., tuple[int, list[str], list[str]]]


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
    pytest.importorskip("celpy", reason="needs cel-python: pip install -e '.[dev]'")
    archive = shared / "k8s" / "crds.tgz"
    if not archive.is_file():
        pytest.skip(f"no CRDs: {archive} is absent")
    return crd.read_crds(archive)


@pytest.fixture(scope="session")
def combined(tmp_path_factory: pytest.TempPathFactory) -> Combined:
    """`combined(names, settings)`: the GPU overlay with some components, and settings as user.yaml,
    in a kustomization of one's own."""
    (own,) = load_file(ROOT / GPU_OVERLAY / "kustomization.yaml")

    @cache
    def make(names: tuple[str, ...], settings: str) -> list[Manifest]:
        folder = tmp_path_factory.mktemp("combined")
        tree: dict[str, Any] = {
            "namespace": own["namespace"],
            "resources": [os.path.relpath(ROOT / GPU_OVERLAY, folder)],
            "components": [os.path.relpath(ROOT / "components" / n, folder) for n in names],
        }
        if settings:
            (folder / "user.yaml").write_text(settings, encoding="utf-8")
            made = {"name": "gcg-run", "behavior": "merge", "files": ["user.yaml"]}
            tree["configMapGenerator"] = [made]
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        return kustomize(folder) if kustomize_command() else assemble(folder)

    return lambda names, settings="": copy.deepcopy(make(tuple(names), settings))


@pytest.fixture
def gcg(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command: exit code, lines of standard output, lines of errors."""

    def run(*words: object) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        errors = [line.removeprefix("error: ") for line in told.err.splitlines()]
        return code, told.out.splitlines(), errors

    return run
