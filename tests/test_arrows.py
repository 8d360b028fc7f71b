"""Who may import whom (docs/design.md): a room's modules must not look uphill."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

OURS = {"gcg", "dataloaders", "launcher", "ds_configs", "benchmarks", "examples", "tests"}
MAY_IMPORT = {
    "gcg": set(),
    "dataloaders": set(),
    "ds_configs": set(),
    "launcher": {"gcg", "dataloaders", "ds_configs"},
    "examples": {"gcg", "dataloaders", "launcher", "ds_configs"},
    # The makers of small checkpoints and the spawner of ranks serve tests and benchmarks alike.
    "benchmarks": {"gcg", "dataloaders", "launcher", "ds_configs", "tests"},
}
# Slow to import, so each is named in few files and never on the way to `gcg --help`.
HEAVY = {"ray", "deepspeed", "nvidia", "torch", "transformers", "webdataset", "av", "streaming"}


def imported_packages(source: str) -> set[str]:
    """Top-level packages a module's source imports, wherever the statement stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room: str) -> None:
    files = modules(room)
    assert files, f"{room}/ has no modules"
    wrong = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in files
        if (found := imported_packages(path.read_text()) & OURS - MAY_IMPORT[room] - {room})
    }
    assert not wrong


def test_an_arrow_the_wrong_way_is_noticed() -> None:
    source = "def f():\n    from launcher.config import RunConfig\n    import dataloaders.plan\n"
    assert imported_packages(source) == {"launcher", "dataloaders"}


def test_kubernetes_holds_no_python() -> None:
    assert not modules("kubernetes")


def test_heavy_libraries_are_not_needed_for_help() -> None:
    code = (
        "import sys\n"
        "from launcher.cli import build_parser\n"
        "build_parser().format_help()\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
