"""The steps that build the image, run: quickly on what is installed here, slowly from the index."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest

from .rules import context

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="the image has Python 3.11, the steps ask for it"
)


def run(*command: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """In an empty folder, as the builder has no checkout to import from by accident."""
    python = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{python}:{os.environ['PATH']}", **settings}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [str(word) for word in command],
        capture_output=True, text=True, env=environment, cwd="/", check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return context(tmp_path_factory.mktemp("context")) / "docker" / "install.sh"


def test_every_step_offline(script: Path, tmp_path: Path) -> None:
    """Nothing may be fetched: what is needed must be found to be there, in the pinned versions."""
    venv, dist = tmp_path / "venv", tmp_path / "dist"
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "TMPDIR": str(tmp_path)}
    done = run(script, "environment", venv, **offline)
    assert done.returncode == 0, done.stderr
    packages = next((venv / "lib").glob("python3*")) / "site-packages"
    (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = run(script, "dependencies", venv, "cpu", **offline)
    assert done.returncode == 0, done.stderr
    assert "Requirement already satisfied: torch==" in done.stdout
    assert "Collecting" not in done.stdout
    done = run(script, "wheel", dist, **offline)
    assert done.returncode == 0, done.stderr
    done = run(script, "project", venv, dist, **offline)
    assert done.returncode == 0, done.stderr

    own = {each.metadata["Name"] for each in distributions(path=[str(packages)])}
    assert own == {"gcg-train"}  # no pip among what an image holds
    assert list((packages / "gcg" / "__pycache__").glob("model.*.pyc"))
    assert list((packages / "gcg" / "assets").glob("*.safetensors"))
    done = run(venv / "bin" / "gcg", "doctor", "--only", "packages,memory,shm,limits")
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(venv) in "".join(done.stdout.split())  # which wraps long lines
    done = run(venv / "bin" / "python", "-m", "launcher.train", "--help")
    assert done.returncode == 0, done.stderr


def test_a_step_that_cannot_be_done_fails(script: Path, tmp_path: Path) -> None:
    offline = {"PIP_NO_INDEX": "1"}
    assert run(script).returncode
    done = run(script, "dependency", tmp_path)
    assert done.returncode == 2
    assert "dependency: no such step; choose environment, dependencies" in done.stderr
    venv = tmp_path / "venv"
    assert run(script, "environment", venv).returncode == 0
    for words, complaint in (
        (("tpu",), "tpu: no such variant; choose from cpu, gpu"),
        (("gpu", "tracking", "track"), "track: no such extra; choose from train,"),
        (("cpu",), "torch"),  # nothing is there, and nothing may be fetched
    ):
        done = run(script, "dependencies", venv, *words, **offline)
        assert done.returncode, done.stdout
        assert complaint in done.stderr
    done = run(script, "project", venv, tmp_path / "nothing", **offline)
    assert done.returncode


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("variant", "extras"), [("cpu", ()), ("gpu", ("tracking", "plot"))])
def test_the_dependencies_from_the_index(
    script: Path, tmp_path: Path, variant: str, extras: tuple[str, ...]
) -> None:
    """All that an image holds is to be had as wheels, but for DeepSpeed, and fits together."""
    venv = tmp_path / "venv"
    assert run(script, "environment", venv).returncode == 0
    # Only resolved, which fetches what tells a package's needs: gigabytes stay where they are.
    dry = {
        "INSTALL_OPTIONS": "--dry-run",
        "TORCH_CPU_INDEX": os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple"),
    }
    done = run(script, "dependencies", venv, variant, *extras, **dry)
    assert done.returncode == 0, done.stderr
    (line,) = [
        line
        for line in done.stdout.splitlines()
        if "deepspeed" in line and line.startswith("Would install")
    ]
    assert ("dali" in line) == (variant == "gpu")
    assert ("wandb" in line) == ("tracking" in extras)
