"""With KUBECONFIG set: a real API server is asked, and nothing is made (`--dry-run=server`)."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import yaml

from .manifests import QUEUES, ROOT, Manifest, kustomize

pytestmark = pytest.mark.skipif(
    not os.environ.get("KUBECONFIG") or shutil.which("kubectl") is None,
    reason="no API server to ask: set KUBECONFIG, and install kubectl",
)
_TIMEOUT_S = 120


def kubectl(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", *words], input=stdin, capture_output=True, text=True, timeout=_TIMEOUT_S
    )


@pytest.fixture(scope="module")
def kinds() -> set[tuple[str, str]]:
    """(apiVersion, kind) of all that the server knows."""
    done = kubectl("api-resources", "--no-headers")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return {(row[-3], row[-1]) for row in rows}


def in_default(doc: Manifest) -> Manifest:
    """In a namespace that is there; one of ours would have to be made first."""
    metadata = dict(doc["metadata"])
    if "namespace" in metadata:
        metadata["namespace"] = "default"
    return {**doc, "metadata": metadata}


def test_an_api_server_takes_it(folder: str, kinds: set[tuple[str, str]]):
    check(kustomize(ROOT / folder), kinds)


def test_an_api_server_takes_the_queues(kinds: set[tuple[str, str]]):
    check(kustomize(ROOT / QUEUES), kinds)


def check(docs: list[Manifest], kinds: set[tuple[str, str]]) -> None:
    known = [in_default(doc) for doc in docs if (doc["apiVersion"], doc["kind"]) in kinds]
    unknown = {doc["kind"] for doc in docs if (doc["apiVersion"], doc["kind"]) not in kinds}
    text = yaml.safe_dump_all(known)
    words = ("--server-side", "--dry-run=server", "--validate=strict", "--force-conflicts")
    done = kubectl("apply", *words, "-f", "-", stdin=text)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(server dry run)") == len(known)
    if unknown:
        pytest.skip(f"taken but for kinds that the server has not: {', '.join(sorted(unknown))}")
