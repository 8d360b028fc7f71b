"""The runtime environment of a job: what Ray sets up on the nodes before it starts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from launcher.config import RunConfig
from launcher.errors import UserError

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
# From the workers' last checkpoint to the end of the command: Ray Train takes its workers down.
_ENDING_S = 30
_NAME = re.compile(r"[A-Za-z_]\w*")
_IMAGES = ("image_uri", "container")
_OURS = ("working_dir", "excludes")


def runtime_env(config: RunConfig, file: Path | None, variables: Sequence[str]) -> dict[str, Any]:
    """What is asked of Ray, without the upload.

    Ray kills a job that it stops after 3 s, far too soon for a last checkpoint. It looks up how
    long it waits in the environment of the actor that guards the job, which has the job's
    runtime environment: so the job brings the time of grace along.

    Args:
        file: YAML with Ray's fields of a runtime environment (pip, uv, conda, env_vars, …).
        variables: ``NAME=VALUE``; they win over the file's ``env_vars``.

    Raises:
        UserError: with every problem, a line each.
    """
    found, problems = ({}, []) if file is None else _read(file)
    environment = {STOP_WAIT: str(math.ceil(config.safety.grace_s) + _ENDING_S)}
    given = found.get("env_vars")
    if isinstance(given, dict):
        environment |= {str(name): str(value) for name, value in given.items()}
    elif given is not None:
        problems.append(f"{file}: env_vars: must be a section of NAME: value; write it so")
    for text in variables:
        name, equals, value = text.partition("=")
        if not equals or not _NAME.fullmatch(name):
            problems.append(f"--env {name}: must look like NAME=VALUE; write it so")
            continue
        environment[name] = value
    problems += [
        f"{name}: would show the cluster's token to whoever lists its jobs; leave it out: a job "
        "has the token of the node that it runs on"
        for name in environment
        if name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE")
    ]
    if problems:
        raise UserError(problems)
    return _validated({**found, "env_vars": environment}, file)


def _read(file: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--runtime-env {file}: cannot be read: {reason}; give a YAML file"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"--runtime-env {file}: is no YAML: {error}; correct it") from None
    if found is None:
        return {}, []
    if not isinstance(found, dict):
        raise UserError(
            f"--runtime-env {file}: holds no section; write Ray's fields, such as pip: [...]"
        )
    problems = [
        f"{file}: {key}: is what --working-dir and .rayignore say; leave it out"
        for key in _OURS
        if key in found
    ]
    problems += [
        f"{file}: {key}: Ray takes no upload beside it, and the run file is one; start the "
        "cluster's nodes from the image, and give --working-dir none"
        for key in _IMAGES
        if key in found
    ]
    return found, problems


def _validated(found: dict[str, Any], file: Path | None) -> dict[str, Any]:
    from ray.runtime_env import RuntimeEnv

    try:
        return dict(RuntimeEnv(**found).to_dict())
    except (TypeError, ValueError, FileNotFoundError) as error:
        text = " ".join(str(error).split())[:500]
        raise UserError(
            f"--runtime-env {file}: Ray does not take it: {text}; correct the file"
        ) from None
