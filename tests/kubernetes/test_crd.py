"""The checker itself: KubeRay's bad examples are refused, each for its own reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import crd, operator_rules, pods
from .checks import builtin_problems
from .manifests import load_file

REASONS = {
    "bad_enum": "authOptions.mode: 'tokens' is not one of ['disabled', 'token']",
    "bad_qty": "limits.nvidia.com/gpu: 'eight' does not match",
    "bad_submode": "submissionMode: 'K8SJobMode' is none of",
    "bad_type": "spec.backoffLimit: 'two' is not of type 'integer'",
    "cel_deletion": "requires either BOTH onSuccess and onFailure",
    "cel_managedby": "the managedBy field value must be either",
    "dup_volume_mount": "mounts 'nope', which is no volume of the Pod",
    "min_gt_max": "minReplicas 5 > maxReplicas 2",
    "no_entrypoint": "spec.entrypoint: must be set",
    "unknown_pod": "'terminationGraceSeconds' was unexpected",
    "unknown_top": "'backofLimit' was unexpected",
}


def refusals(doc: dict, crds: crd.Crds) -> list[str]:
    """What keeps a RayJob from running anywhere, our own rules left out."""
    if found := crd.problems(doc, crds):
        return found
    found = operator_rules.problems(doc)
    for pod in pods.render(doc):
        found += builtin_problems(pod) + pods.mount_problems(pod)
    return found


def test_every_example_has_a_verdict(shared: Path):
    names = {path.stem for path in (shared / "k8s" / "neg").glob("*.yaml")}
    assert names == {*REASONS, "ok", "base"}


@pytest.mark.parametrize("name", ["ok", "base"])
def test_good_example_is_taken(name: str, shared: Path, crds: crd.Crds):
    (doc,) = load_file(shared / "k8s" / "neg" / f"{name}.yaml")
    assert refusals(doc, crds) == []


@pytest.mark.parametrize("name", sorted(REASONS))
def test_bad_example_is_refused_for_its_own_reason(name: str, shared: Path, crds: crd.Crds):
    (doc,) = load_file(shared / "k8s" / "neg" / f"{name}.yaml")
    found = refusals(doc, crds)
    assert len(found) == 1, found
    assert REASONS[name] in found[0]


def test_rules_of_the_crds_are_evaluated(crds: crd.Crds):
    """cel-python understands every rule that is asked when an object is made."""

    def rules(schema):
        if isinstance(schema, dict):
            yield from (v["rule"] for v in schema.get("x-kubernetes-validations") or [])
            for value in schema.values():
                yield from rules(value)
        elif isinstance(schema, list):
            for value in schema:
                yield from rules(value)

    creation = {rule for schema in crds.values() for rule in rules(schema) if "oldSelf" not in rule}
    assert len(creation) >= 10
    for rule in creation:
        crd.holds(f"true || ({rule})", {})


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("!(has(self.a) && has(self.b))", {"a": 1}, True),
        ("self in ['x', 'y']", "y", True),
        ("self in ['x', 'y']", "z", False),
        ("self.all(x, has(x.key) ? true : x.operator == 'Exists')", [{"operator": "In"}], False),
        ("size(self.n) == 2", {"n": ["a", "b"]}, True),
    ],
)
def test_cel(rule: str, value: object, expected: bool):
    pytest.importorskip("celpy", reason="needs cel-python: pip install -e '.[dev]'")
    assert crd.holds(rule, value) is expected


@pytest.mark.parametrize("rule", ["has(self.a", "self.b == 1"])
def test_cel_is_not_silent(rule: str):
    celpy = pytest.importorskip("celpy", reason="needs cel-python: pip install -e '.[dev]'")
    with pytest.raises((celpy.CELParseError, celpy.CELEvalError)):
        crd.holds(rule, {"a": 4})


def test_strict_schema_details():
    schema = {
        "type": "object",
        "required": ["given", "filled"],
        "properties": {
            "given": {"type": "string"},
            "filled": {"type": "integer", "default": 1},
            "small": {"type": "integer", "format": "int32"},
            "open": {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "x-kubernetes-preserve-unknown-fields": True,
            },
            "env": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}}},
            },
        },
    }
    crds = {("v1", "K"): {"type": "object", "properties": {"spec": schema}}}

    def found(**spec):
        return crd.problems({"apiVersion": "v1", "kind": "K", "spec": spec}, crds)

    assert found(given="x", open={"b": 1}, small=2**31 - 1) == []
    assert "'given' is a required property" in found()[0]
    assert "maximum" in found(given="x", small=2**31)[0]
    assert "is given twice" in found(given="x", env=[{"name": "a"}, {"name": "a"}])[0]
    assert "no CRD" in crd.problems({"apiVersion": "v2", "kind": "K"}, crds)[0]
