"""A wheel holds what a checkout holds: every package and the shipped weights are named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PYPROJECT = (ROOT / "pyproject.toml").read_text()


def listed(key: str) -> list[str]:
    """The strings of a list in pyproject.toml."""
    found = re.search(rf"^{re.escape(key)} = \[(.*?)\]$", PYPROJECT, re.MULTILINE | re.DOTALL)
    assert found, key
    return re.findall(r'"([^"]+)"', found[1])


def test_every_package_is_listed() -> None:
    rooms = ("gcg", "dataloaders", "ds_configs", "launcher")
    there = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for room in rooms
        for path in (ROOT / room).rglob("__init__.py")
    }
    assert there == set(listed("packages"))


def test_package_data_covers_what_is_no_code() -> None:
    for folder, key in (
        (ROOT / "gcg" / "assets", '"gcg.assets"'),
        (ROOT / "ds_configs", "ds_configs"),
        (ROOT / "launcher" / "report" / "templates", '"launcher.report"'),
        (ROOT / "launcher" / "ui" / "templates", '"launcher.ui"'),
    ):
        patterns = listed(key)
        for path in folder.iterdir():
            if path.suffix != ".py" and path.is_file():
                assert any(path.match(pattern) for pattern in patterns), path


def test_pins_and_constraints_agree() -> None:
    """What pyproject asks for is what the constraints file gives."""
    for python in ("3.10", "3.11", "3.12"):
        environment = {"python_version": python}
        versions = {}
        for line in (ROOT / "constraints.txt").read_text().splitlines():
            pin = Requirement(line)
            if pin.marker is None or pin.marker.evaluate(environment):
                assert canonicalize_name(pin.name) not in versions, (python, line)
                (specifier,) = pin.specifier
                versions[canonicalize_name(pin.name)] = specifier.version
        extras = [
            text
            for name in ("train", "dali", "s3", "http", "browser", "ui", "dev")
            for text in listed(name)
        ]
        for text in [*listed("dependencies"), *extras]:
            wanted = Requirement(text)
            applies = wanted.marker is None or wanted.marker.evaluate(environment)
            if applies and wanted.name != "gcg-train":
                version = versions[canonicalize_name(wanted.name)]
                assert wanted.specifier.contains(version), (python, text, version)


def test_the_command_is_installed() -> None:
    (command,) = (e for e in entry_points(group="console_scripts") if e.name == "gcg")
    assert command.value == "launcher.cli:main"


def test_a_wheel_holds_the_manifests(tmp_path: Path) -> None:
    """`gcg k8s render` finds them where there is no checkout."""
    lib = tmp_path / "lib"
    egg = ("egg_info", f"--egg-base={tmp_path}")
    build = [sys.executable, "setup.py", "-q", *egg, "build_py", f"--build-lib={lib}"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    code = "from launcher.k8s.parts import parts_folder; print(parts_folder())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(lib)},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    folder = Path(done.stdout.strip())
    assert folder == lib / "launcher" / "k8s" / "manifests"

    def files(root: Path) -> dict[Path, bytes]:
        return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    assert files(folder) == files(ROOT / "kubernetes")
