"""Reading manifests: strict YAML, `kubectl kustomize`, and our own small kustomize.

The second way exists so that a machine without kubectl still checks every overlay; a test compares
the two wherever both are there.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2] / "kubernetes"
KUSTOMIZATIONS = ["base", "overlays/demo-cpu"]

Manifest = dict[str, Any]

# What `assemble` acts on, and what it leaves to kustomize because no check depends on it.
_UNDERSTOOD = {"resources", "configMapGenerator", "patches", "images"}
_LEFT_OUT = {"apiVersion", "kind", "namespace", "labels", "configurations"}


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key given twice, which plain YAML resolves silently to the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


def load_all(text: str) -> list[Any]:
    """Every document of `text`, empty ones dropped."""
    return [doc for doc in yaml.load_all(text, Loader=_StrictLoader) if doc is not None]


def load_file(path: Path) -> list[Any]:
    return load_all(path.read_text(encoding="utf-8"))


def kustomize_command() -> list[str] | None:
    """How to run kustomize on this machine, or None."""
    if kubectl := shutil.which("kubectl"):
        return [kubectl, "kustomize"]
    if kustomize := shutil.which("kustomize"):
        return [kustomize, "build"]
    return None


def kustomize(folder: Path) -> list[Manifest]:
    """The objects `kubectl apply -k folder` would send."""
    command = kustomize_command()
    assert command is not None, "ask kustomize_command() first"
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{folder}: {done.stderr.strip()}"
    return load_all(done.stdout)


def assemble(folder: Path) -> list[Manifest]:
    """Resources, generated ConfigMaps, patches and images; names and labels left as written."""
    (kustomization,) = load_file(folder / "kustomization.yaml")
    unknown = set(kustomization) - _UNDERSTOOD - _LEFT_OUT
    assert not unknown, f"{folder}: assemble() does not know {sorted(unknown)}"
    docs: list[Manifest] = []
    for resource in kustomization.get("resources", []):
        path = folder / resource
        docs += assemble(path) if path.is_dir() else load_file(path)
    for generator in kustomization.get("configMapGenerator", []):
        docs = _add_config_map(docs, generator, folder)
    for patch in kustomization.get("patches", []):
        (operations,) = load_file(folder / patch["path"])
        docs = [_patched(doc, operations, patch["target"]) for doc in docs]
    for image in kustomization.get("images", []):
        _set_images(docs, image)
    return docs


def _add_config_map(docs: list[Manifest], generator: dict[str, Any], folder: Path):
    others = [d for d in docs if (d["kind"], _name(d)) != ("ConfigMap", generator["name"])]
    replaces = generator.get("behavior", "create") == "replace"
    assert replaces == (len(others) < len(docs)), f"{folder}: behavior of {generator['name']}"
    files = {name: (folder / name).read_text(encoding="utf-8") for name in generator["files"]}
    metadata = {"name": generator["name"]}
    return [
        *others,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files},
    ]


def _name(doc: Manifest) -> str:
    return doc["metadata"]["name"]


def _patched(doc: Manifest, operations: list[dict[str, Any]], target: dict[str, str]) -> Manifest:
    if doc["kind"] != target["kind"] or _name(doc) != target["name"]:
        return doc
    doc = copy.deepcopy(doc)
    for operation in operations:
        apply_operation(doc, operation["op"], operation["path"], operation.get("value"))
    return doc


def _set_images(value: Any, image: dict[str, str]) -> None:
    """`newName` and `newTag` in every container, in place, wherever containers are listed."""
    if isinstance(value, list):
        for item in value:
            _set_images(item, image)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in ("containers", "initContainers"):
                _set_images(item, image)
                continue
            for container in item:
                name, _, tag = container["image"].partition(":")
                if name == image["name"]:
                    name, tag = image.get("newName", name), image.get("newTag", tag)
                    container["image"] = f"{name}:{tag}"


def apply_operation(doc: Any, op: str, path: str, value: Any = None) -> None:
    """One operation of RFC 6902 (`add`, `replace`, `remove`), in place.

    Raises KeyError or IndexError where the path does not lead anywhere.
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
    if op == "remove":
        del doc[last]
    else:
        doc[last] = copy.deepcopy(value)


def one(docs: list[Manifest], kind: str) -> Manifest:
    """The only object of that kind."""
    (found,) = [doc for doc in docs if doc["kind"] == kind]
    return found
