"""Custom resources against their CRDs, as strictly as an API server with `fieldValidation: Strict`.

A structural schema becomes a JSON Schema in which a field nobody declared is an error; CEL rules
and the keys of list-maps, which JSON Schema cannot say, are walked separately.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

Schema = dict[str, Any]
Crds = dict[tuple[str, str], Schema]
_WRITTEN = (
    "ray.io_rayjobs.yaml",
    "kueue.x-k8s.io_localqueues.yaml",
    "kueue.x-k8s.io_clusterqueues.yaml",
    "kueue.x-k8s.io_resourceflavors.yaml",
    "monitoring.coreos.com_podmonitors.yaml",
    "monitoring.coreos.com_prometheusrules.yaml",
)
_INT_RANGES = {"int32": 2**31, "int64": 2**63}


def read_crds(archive: Path) -> Crds:
    """`{(apiVersion, kind): openAPIV3Schema}` of every served version in a `.tgz` of CRDs."""
    crds: Crds = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            # The kinds that we write; parsing all of them takes seconds.
            if not member.name.endswith(_WRITTEN):
                continue
            stream = tar.extractfile(member)
            assert stream is not None
            spec = yaml.load(stream, Loader=loader)["spec"]
            for version in spec["versions"]:
                if version["served"]:
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    crds[key] = version["schema"]["openAPIV3Schema"]
    return crds


def problems(doc: dict[str, Any], crds: Crds) -> list[str]:
    """What an API server would answer to creating `doc`; empty if it would take it."""
    schema = crds.get((doc["apiVersion"], doc["kind"]))
    if schema is None:
        return [f"no CRD for {doc['apiVersion']} {doc['kind']}"]
    body = {k: v for k, v in doc.items() if k not in ("apiVersion", "kind", "metadata")}
    schema = {
        **schema,
        "properties": {k: v for k, v in schema["properties"].items() if k in ("spec", "status")},
    }
    validator = jsonschema.Draft202012Validator(strict(schema))
    found = [
        f"{_dotted(error.absolute_path)}: {error.message}" for error in validator.iter_errors(body)
    ]
    return found or list(_walk(schema, body, ""))


def strict(schema: Schema) -> Schema:
    """The same schema with undeclared fields forbidden and the Kubernetes extensions translated."""
    if schema.get("x-kubernetes-int-or-string"):
        out: Schema = {"type": ["integer", "string"]}
        if "pattern" in schema:  # JSON Schema applies it to strings only, as Kubernetes does
            out["pattern"] = schema["pattern"]
        return out
    kept = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems")
    out = {key: schema[key] for key in kept if key in schema}
    if schema.get("nullable"):
        out["type"] = [schema["type"], "null"]
    if limit := _INT_RANGES.get(schema.get("format", "")):
        out.setdefault("minimum", -limit)
        out.setdefault("maximum", limit - 1)
    if "items" in schema:
        out["items"] = strict(schema["items"])
    properties = schema.get("properties", {})
    if properties:
        out["properties"] = {name: strict(sub) for name, sub in properties.items()}
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = strict(schema["additionalProperties"])
    elif properties and not schema.get("x-kubernetes-preserve-unknown-fields"):
        out["additionalProperties"] = False
    # The server fills defaults in before it asks what is required.
    required = [n for n in schema.get("required", []) if "default" not in properties.get(n, {})]
    if required:
        out["required"] = required
    return out


def _walk(schema: Schema, value: Any, path: str) -> Iterator[str]:
    yield from _cel_problems(schema, value, path)
    if isinstance(value, dict):
        for key, item in value.items():
            sub = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if isinstance(sub, dict):
                yield from _walk(sub, item, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        yield from _duplicates(schema, value, path)
        for index, item in enumerate(value):
            yield from _walk(schema.get("items", {}), item, f"{path}[{index}]")


def _cel_problems(schema: Schema, value: Any, path: str) -> Iterator[str]:
    for validation in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in validation["rule"]:  # compares two versions; nothing is being updated here
            continue
        if not holds(validation["rule"], value):
            yield f"{path}: {validation.get('message', validation['rule'])}"


def holds(rule: str, value: Any) -> bool:
    """Whether a CEL rule is true of the object it is attached to.

    Raises celpy's errors for a rule that is no CEL, or asks for a field that is not set.
    """
    from celpy.adapter import json_to_cel

    return bool(_program(rule).evaluate({"self": json_to_cel(value)}))


@cache
def _program(rule: str) -> Any:
    import celpy

    environment = celpy.Environment()
    return environment.program(environment.compile(rule))


def _duplicates(schema: Schema, values: list[Any], path: str) -> Iterator[str]:
    kind = schema.get("x-kubernetes-list-type")
    if kind == "map":
        sub = schema["items"].get("properties", {})
        keys = [
            tuple(item.get(k, sub.get(k, {}).get("default")) for k in schema[_MAP_KEYS])
            for item in values
        ]
    elif kind == "set":
        keys = list(values)
    else:
        return
    for index, key in enumerate(keys):
        if key in keys[:index]:
            yield f"{path}[{index}]: {key} is given twice"


_MAP_KEYS = "x-kubernetes-list-map-keys"


def _dotted(path: Any) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path).lstrip(".")
