"""The kustomize parts that a run is put together from: `kubernetes/` of a checkout, or the copy of
it that a wheel carries."""

from __future__ import annotations

import shutil
from pathlib import Path

from launcher.errors import UserError

# Components that say what the run file says already.
MODELS = ("llm-70b", "vicuna-13b")
STORAGES = ("storage-pvc", "storage-s3")
GPU = "gpu-h100"


def parts_folder(given: Path | None = None) -> Path:
    """The folder with ``base/`` and ``components/``.

    Raises:
        UserError: there is none.
    """
    here = Path(__file__).resolve().parent
    for place in [given] if given else [here.parents[1] / "kubernetes", here / "manifests"]:
        if (place / "base" / "kustomization.yaml").is_file():
            return place
    where = f"--base {given}" if given else "--base"
    raise UserError(f"{where}: no base/kustomization.yaml there; give the folder kubernetes/ of it")


def components(folder: Path) -> list[str]:
    """The names that ``--component`` takes."""
    return sorted(path.parent.name for path in folder.glob("components/*/kustomization.yaml"))


def copy_parts(folder: Path, names: list[str], out: Path) -> None:
    """The base and the named components, below ``out``."""
    shutil.copytree(folder / "base", out / "base")
    for name in names:
        shutil.copytree(folder / "components" / name, out / "components" / name)
