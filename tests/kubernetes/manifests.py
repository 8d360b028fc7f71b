"""Reading manifests: strict YAML, `kubectl kustomize`, and changes to what was read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from launcher.config.file import load_strictly
from launcher.k8s import objects

ROOT = Path(__file__).resolve().parents[2] / "kubernetes"
OVERLAYS = [f"overlays/{path.name}" for path in sorted((ROOT / "overlays").iterdir())]
COMPONENTS = [path.name for path in sorted((ROOT / "components").iterdir())]
GPU_OVERLAY = "overlays/zero3-h100"
QUEUES = "kueue-queues"

Manifest = dict[str, Any]


def load_all(text: str) -> list[Any]:
    """Every document of `text`, empty ones dropped."""
    return [doc for doc in load_strictly(text) if doc is not None]


def load_file(path: Path) -> list[Any]:
    return load_all(path.read_text(encoding="utf-8"))


def kustomize(folder: Path) -> list[Manifest]:
    """The objects `kubectl apply -k folder` would send."""
    return load_all(objects.kustomize(folder))


def apply_operation(doc: Any, op: str, path: str, value: Any = None) -> None:
    """One operation of RFC 6902 (`add`, `replace`, `remove`, `test`), in place.

    Raises KeyError or IndexError where the path does not lead anywhere, or a test fails.
    """
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:]]
    for part in parents:
        doc = doc[int(part)] if isinstance(doc, list) else doc[part]
    if isinstance(doc, list):
        index = len(doc) if last == "-" else int(last)
        if op == "add":
            doc.insert(index, copy.deepcopy(value))
        elif op == "replace":
            doc[index] = copy.deepcopy(value)
        else:
            del doc[index]
        return
    if op != "add" and last not in doc:
        raise KeyError(path)
    if op == "test":
        if doc[last] != value:
            raise KeyError(f"{path} is {doc[last]!r}, not {value!r}")
    elif op == "remove":
        del doc[last]
    else:
        doc[last] = copy.deepcopy(value)


def every(docs: list[Manifest], kind: str) -> list[Manifest]:
    """All objects of that kind."""
    return [doc for doc in docs if doc["kind"] == kind]


def one(docs: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The only object of that kind whose name begins so."""
    (found,) = [doc for doc in every(docs, kind) if doc["metadata"]["name"].startswith(name)]
    return found


def run_files(docs: list[Manifest]) -> dict[str, str]:
    """The files of the ConfigMap that holds the run file."""
    (found,) = [doc["data"] for doc in every(docs, "ConfigMap") if "run.yaml" in doc["data"]]
    return found
