"""Our own small kustomize, so that a machine without kubectl checks every overlay as well.

A test compares it with `kubectl kustomize` wherever that is there. Names and labels stay as they
are written.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from .manifests import Manifest, apply_operation, load_all, load_file

# What it acts on, and what it leaves to kustomize because no check depends on it.
_UNDERSTOOD = {"resources", "components", "configMapGenerator", "patches", "images"}
_LEFT_OUT = {"apiVersion", "kind", "namespace", "labels", "configurations"}


def assemble(folder: Path) -> list[Manifest]:
    """Resources, generated ConfigMaps, components, patches and images: kustomize's order."""
    return _build(folder, [])


def _build(folder: Path, docs: list[Manifest]) -> list[Manifest]:
    (kustomization,) = load_file(folder / "kustomization.yaml")
    unknown = set(kustomization) - _UNDERSTOOD - _LEFT_OUT
    assert not unknown, f"{folder}: assemble() does not know {sorted(unknown)}"
    docs = list(docs)
    for resource in kustomization.get("resources", []):
        path = folder / resource
        docs += _build(path, []) if path.is_dir() else load_file(path)
    for generator in kustomization.get("configMapGenerator", []):
        docs = _add_config_map(docs, generator, folder)
    for component in kustomization.get("components", []):
        docs = _build(folder / component, docs)
    for patch in kustomization.get("patches", []):
        docs = _patched(docs, patch, folder)
    for image in kustomization.get("images", []):
        _set_images(docs, image)
    return docs


def _add_config_map(
    docs: list[Manifest], generator: dict[str, Any], folder: Path
) -> list[Manifest]:
    def is_it(doc: Manifest) -> bool:
        return (doc["kind"], doc["metadata"]["name"]) == ("ConfigMap", generator["name"])

    before = [doc for doc in docs if is_it(doc)]
    behavior = generator.get("behavior", "create")
    assert (behavior == "create") == (not before), f"{folder}: behavior of {generator['name']}"
    files = {name: (folder / name).read_text(encoding="utf-8") for name in generator["files"]}
    if behavior == "merge":
        files = {**before[0]["data"], **files}
    metadata = {"name": generator["name"]}
    if labels := generator.get("options", {}).get("labels"):
        metadata["labels"] = labels
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files}
    return [*(doc for doc in docs if not is_it(doc)), made]


def _patched(docs: list[Manifest], patch: dict[str, Any], folder: Path) -> list[Manifest]:
    texts = load_all(patch["patch"]) if "patch" in patch else load_file(folder / patch["path"])
    (change,) = texts
    if isinstance(change, dict):
        assert change["$patch"] == "delete", f"{folder}: assemble() knows no other merge"
        target = {"kind": change["kind"], "name": change["metadata"]["name"]}
        return [doc for doc in docs if not _is_target(doc, target)]
    return [_changed(doc, change) if _is_target(doc, patch["target"]) else doc for doc in docs]


def _is_target(doc: Manifest, target: dict[str, str]) -> bool:
    name = doc["metadata"]["name"]
    return doc["kind"] == target["kind"] and target.get("name", name) == name


def _changed(doc: Manifest, operations: list[dict[str, Any]]) -> Manifest:
    doc = copy.deepcopy(doc)
    for operation in operations:
        apply_operation(doc, operation["op"], operation["path"], operation.get("value"))
    return doc


def _set_images(value: Any, image: dict[str, str]) -> None:
    """`newName`, `newTag` and `digest` in every container, in place, wherever those are listed."""
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
                if name != image["name"]:
                    continue
                name = image.get("newName", name)
                tag = image.get("newTag", tag)
                digest = image.get("digest")
                container["image"] = f"{name}@{digest}" if digest else f"{name}:{tag}"
