"""What a Kubernetes overlay would start: read out of the rendered manifests, for other machines."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.k8s.objects import kustomize_command
from tests.kubernetes.manifests import ROOT, kustomize, one


@dataclass(frozen=True)
class Rendered:
    """A RayJob's command, environment and files, with the Pod's folders at ``root``.

    ``auth_mode``: of the cluster; ``start``: options of `ray start` on the head; ``run_file``: the
    file that the command reads.
    """

    entrypoint: list[str]
    environment: dict[str, str]
    auth_mode: str
    start: dict[str, str]
    run_file: Path
    storage: Path


def render(overlay: str, root: Path) -> Rendered:
    """Render an overlay and lay out its folders below ``root``, the run file among them."""
    if kustomize_command() is None:
        pytest.skip("kubectl and kustomize are absent: nothing can render the manifests")
    docs = kustomize(ROOT / "overlays" / overlay)
    spec = one(docs, "RayJob")["spec"]
    assert "runtimeEnvYAML" not in spec, "the test knows of no runtime environment but the Pod's"
    head = spec["rayClusterSpec"]["headGroupSpec"]
    pod = head["template"]["spec"]
    (container,) = pod["containers"]
    places = {
        mount["mountPath"]: root / mount["mountPath"][1:] for mount in container["volumeMounts"]
    }

    def here(text: str) -> str:
        for inside, outside in places.items():
            if inside != "/tmp" and (text == inside or text.startswith(inside + "/")):
                return str(outside) + text[len(inside) :]
        return text

    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    maps = {doc["metadata"]["name"]: doc["data"] for doc in docs if doc["kind"] == "ConfigMap"}
    for mount in container["volumeMounts"]:
        folder = places[mount["mountPath"]]
        folder.mkdir(parents=True, exist_ok=True)
        source = volumes[mount["name"]].get("configMap")
        for name, content in maps[source["name"]].items() if source else ():
            (folder / name).write_text(yaml.safe_dump(_moved(yaml.safe_load(content), here)))
    entrypoint = [here(word) for word in shlex.split(spec["entrypoint"])]
    return Rendered(
        entrypoint,
        {variable["name"]: here(variable["value"]) for variable in container["env"]},
        spec["rayClusterSpec"]["authOptions"]["mode"],
        head["rayStartParams"],
        Path(entrypoint[entrypoint.index("--config") + 1]),
        places["/mnt/gcg"],
    )


def _moved(tree: Any, here: Any) -> Any:
    """A run file with the Pod's paths moved."""
    if isinstance(tree, dict):
        return {key: _moved(value, here) for key, value in tree.items()}
    return here(tree) if isinstance(tree, str) else tree
