"""Rules and dashboard ask for metrics that a run exports, in PromQL that Prometheus parses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from launcher.cluster.metrics import COUNTERS, GAUGES

from .manifests import ROOT, load_file, one

FOLDER = ROOT / "components" / "monitoring"
EXPORTED = {f"ray_{name}" for name in GAUGES} | {f"ray_{name}_total" for name in COUNTERS}
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "gcg-train.json").read_text(encoding="utf-8"))


def alerts() -> list[dict[str, Any]]:
    (rules,) = load_file(FOLDER / "rules.yaml")
    return [rule for group in rules["spec"]["groups"] for rule in group["rules"]]


def panel_queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def expressions() -> list[str]:
    """All that is asked, Grafana's variables filled in."""
    asked = [rule["expr"] for rule in alerts()] + list(panel_queries())
    return [expr.replace("$__rate_interval", "5m") for expr in asked]


def names(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", expression))


@pytest.mark.parametrize("expression", expressions())
def test_only_what_is_exported_is_asked_for(expression: str):
    assert names(expression)
    assert names(expression) <= EXPORTED


def test_the_dashboard_shows_all_there_is():
    assert {name for query in panel_queries() for name in names(query)} == EXPORTED


def test_variables_are_of_exported_metrics():
    queries = [v["query"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]
    assert queries
    for query in queries:
        assert names(query) <= EXPORTED


@pytest.mark.parametrize("expression", expressions())
def test_promql_is_parsed(expression: str):
    promql_parser = pytest.importorskip("promql_parser", reason="needs promql-parser: .[dev]")
    promql_parser.parse(expression)


def test_a_broken_query_is_not_parsed():
    promql_parser = pytest.importorskip("promql_parser", reason="needs promql-parser: .[dev]")
    with pytest.raises(ValueError, match=r"."):
        promql_parser.parse("sum by (run (ray_gcg_step)")


def test_goodput_stalls_and_bad_clips_are_warned_of():
    watched = {name for rule in alerts() for name in names(rule["expr"])}
    assert {"ray_gcg_goodput", "ray_gcg_step", "ray_gcg_bad_clips"} <= watched
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) <= {"run"}


def test_panels_do_not_overlap():
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        taken |= cells


def test_the_port_that_is_scraped_is_open():
    (monitor,) = load_file(FOLDER / "podmonitor.yaml")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (policy,) = load_file(FOLDER / "networkpolicy.yaml")
    (ingress,) = policy["spec"]["ingress"]
    cluster = one(load_file(ROOT / "base" / "rayjob.yaml"), "RayJob")["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        ports = {
            p["name"]: p["containerPort"]
            for p in group["template"]["spec"]["containers"][0]["ports"]
        }
        assert [port["port"] for port in ingress["ports"]] == [ports[endpoint["port"]]]
        labels = group["template"]["metadata"]["labels"]
        (expression,) = monitor["spec"]["selector"]["matchExpressions"]
        assert labels[expression["key"]] in expression["values"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
