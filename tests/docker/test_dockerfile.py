"""The Dockerfile keeps its rules, and each rule notices a Dockerfile that breaks it."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT

from .rules import faults, hadolint

DOCKERFILE = (ROOT / "Dockerfile").read_text()
DIGEST = "@sha256:[0-9a-f]{64}"

# (what is broken, pattern, replacement, hadolint's code)
FOR_HADOLINT = [
    ("latest", r"^FROM \$\{PYTHON\} ", "FROM python:latest ", "DL3007"),
    ("no tag", r"^FROM \$\{PYTHON\} ", "FROM python ", "DL3006"),
    ("registry", r"^FROM \$\{PYTHON\} ", "FROM quay.io/python:3.11 ", "DL3026"),
    ("root", r"^USER 1000:1000$", "USER root", "DL3002"),
    ("sudo", r"^RUN docker/install", "RUN sudo docker/install", "DL3004"),
    ("apt lists", r" && rm -rf /var/lib/apt/lists/\* \\\n", "", "DL3009"),
    ("recommends", "--no-install-recommends ", "", "DL3015"),
    ("asks", "install -y ", "install ", "DL3014"),
    ("apt", "apt-get", "apt", "DL3027"),
    ("pip cache", r"^COPY docker/ docker/$", "RUN pip install ray==2.60.0", "DL3042"),
    ("pip pin", r"^COPY docker/ docker/$", "RUN pip install --no-cache-dir ray", "DL3013"),
    ("cd", r"^WORKDIR /src$", "RUN cd /src", "DL3003"),
    ("relative", r"^WORKDIR /src$", "WORKDIR src", "DL3000"),
    ("shell form", r'^CMD \["gcg", "--help"\]$', "CMD gcg --help", "DL3025"),
    ("pipe", r"^SHELL .*\n(?=(#.*\n)*RUN apt)", "RUN cat /etc/passwd | wc -l\n", "DL4006"),
    ("two commands", r"^(CMD .*)$", r"\1\n\1", "DL4003"),
    ("unknown stage", "--from=dependencies-gpu", "--from=gpu", "DL3022|DL3023"),
]

# (what is broken, pattern, replacement, part of the complaint)
FOR_US = [
    ("no digest", DIGEST, "", "must name a tag and a digest"),
    ("short digest", "[0-9a-f]{8}$", "", "must name a tag and a digest"),
    ("digest alone", ":3.11-slim-bookworm@", "@", "must name a tag and a digest"),
    ("ADD", r"^COPY docker/ docker/$", "ADD https://example.invalid/a.tar /a/", "use COPY"),
    ("secret", 'EXTRAS=""', 'HF_TOKEN=""', "stays in the image"),
    ("password", "USER=gcg ", "PASSWORD=gcg ", "stays in the image"),
    ("compiler", "recommends wget", "recommends wget g++", "no compiler"),
    ("no user", r"^USER 1000:1000$\n", "", "USER must be 1000:1000"),
    ("user by name", r"^USER 1000:1000$", "USER gcg", "USER must be 1000:1000"),
    ("root after", r"^(USER 1000:1000)$", r"\1\nUSER 0", "USER must be 1000:1000"),
    ("entry", r"^CMD ", "ENTRYPOINT ", "no ENTRYPOINT"),
    ("home", "HOME=/home/gcg", "HOME=/root", "HOME must be"),
    ("no health", r"^HEALTHCHECK .*\n.*\n", "", "HEALTHCHECK must be"),
    ("shell health", r'CMD \["gcg", "doctor".*$', "CMD gcg doctor", "HEALTHCHECK must be"),
    ("costly health", "memory,shm", "torch,shm", "only cores"),
    ("unknown check", "memory,shm", "pulse,shm", "only cores"),
    ("no cpu", " AS cpu$", " AS small", "cpu: no such target"),
]


def broken(pattern: str, replacement: str) -> str:
    text, times = re.subn(pattern, replacement, DOCKERFILE, flags=re.MULTILINE)
    assert times, pattern
    return text


def test_it_keeps_the_rules() -> None:
    assert hadolint(DOCKERFILE) == []
    assert faults(DOCKERFILE) == []


@pytest.mark.parametrize(("what", "pattern", "replacement", "code"), FOR_HADOLINT)
def test_hadolint_notices(what: str, pattern: str, replacement: str, code: str) -> None:
    found = hadolint(broken(pattern, replacement))
    assert any(re.match(code, line) for line in found), found


@pytest.mark.parametrize(("what", "pattern", "replacement", "complaint"), FOR_US)
def test_our_rules_notice(what: str, pattern: str, replacement: str, complaint: str) -> None:
    found = faults(broken(pattern, replacement))
    assert any(complaint in line for line in found), found


def test_labels_and_versions_are_the_projects() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert version
    assert f'image.version="{version[1]}"' in DOCKERFILE
    manifest = (ROOT / "kubernetes/base/kustomization.yaml").read_text()
    assert f'newTag: "{version[1]}"' in manifest
