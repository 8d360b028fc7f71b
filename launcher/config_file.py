"""Reading a run file: YAML plus dotted overrides into one plain tree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from launcher.errors import ConfigError


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice instead of keeping the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_tree(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The run file with ``a.b=c`` overrides laid over it.

    Raises:
        ConfigError: the file cannot be read, is not a YAML mapping, or an override is malformed.
    """
    tree = _read_yaml(path)
    problems = []
    for override in overrides:
        try:
            apply_override(tree, override)
        except ConfigError as error:
            problems += error.lines
    if problems:
        raise ConfigError(problems)
    return tree


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one ``a.b=c`` in ``tree``; c is read as YAML (``1e-4``, ``true``, ``[0.9, 0.99]``)."""
    path, equals, text = override.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: must look like section.key=value; write it so")
    try:
        value = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: {_yaml_fault(error)}; quote the value") from None
    here = tree
    for depth, part in enumerate(parts[:-1]):
        below = here.setdefault(part, {})
        if below is None:
            below = here[part] = {}
        if not isinstance(below, dict):
            where = ".".join(parts[: depth + 1])
            raise ConfigError(f"--set {override}: {where} is a value, not a section; drop the rest")
        here = below
    here[parts[-1]] = value


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a run file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; give the path of a run file") from None
    try:
        tree = yaml.load(text, _StrictLoader)
    except (yaml.YAMLError, ValueError) as error:
        # PyYAML lets a ValueError out where a date is impossible (2024-13-01).
        raise ConfigError(f"{path}: {_yaml_fault(error)}; correct the YAML") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds a {type(tree).__name__}, not sections; see examples/")
    return tree


def _yaml_fault(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}: {problem}" if mark is not None else str(problem)
