"""Reading a run file: YAML plus dotted overrides into one plain tree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml

from launcher.config.errors import dotted, shorten
from launcher.errors import ConfigError

# What PyYAML lets out on a text that is no YAML: errors of its own, and Python's where a tag does
# not fit its value (2024-13-01, !!int "", !!bool x), a number is too long, or lists lie too deep.
_YAML_FAULTS = (
    yaml.YAMLError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    RecursionError,
)


# A run file needs five. Python's own limit is one that libraries move.
_DEEPEST = 100


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice instead of keeping the last one in silence, and what
    lies too deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth == _DEEPEST:
            raise RecursionError
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

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

    A folder is its ``run.yaml`` with its other ``*.yaml`` laid over that, in the order of their
    names: section by section, key by key; a list is replaced as a whole.

    Raises:
        ConfigError: the file cannot be read, is not a YAML mapping, or an override is malformed.
    """
    tree = _read_folder(path) if _holds_a_run(path) else _read_yaml(path)
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
    shown = shorten(override)
    if not equals or not all(parts):
        raise ConfigError(f"--set {shown}: must look like section.key=value; write it so")
    try:
        value = yaml.load(text, _StrictLoader)
    except _YAML_FAULTS as error:
        raise ConfigError(
            f"--set {shown}: the value is no YAML: {_yaml_fault(error)}; quote it"
        ) from None
    here = tree
    for depth, part in enumerate(parts[:-1]):
        below = here.setdefault(part, {})
        if below is None:
            below = here[part] = {}
        if not isinstance(below, dict):
            where = dotted(tuple(parts[: depth + 1]))
            raise ConfigError(
                f"--set {shown}: {where} is a {kind_of(below)}, not a section; set it as a whole"
            )
        here = below
    here[parts[-1]] = value


def load_strictly(text: str) -> list[Any]:
    """Every document of a YAML text.

    Raises:
        ConfigError: it is no YAML, or a key is given twice.
    """
    try:
        return list(yaml.load_all(text, _StrictLoader))
    except _YAML_FAULTS as error:
        raise ConfigError(_yaml_fault(error)) from None


def _holds_a_run(path: Path) -> bool:
    try:
        return (path / "run.yaml").is_file()
    except (OSError, ValueError):  # a path that no file can have; reading it says so
        return False


def _read_folder(folder: Path) -> dict[str, Any]:
    tree = _read_yaml(folder / "run.yaml")
    for path in sorted(folder.glob("*.yaml")):
        if path.name != "run.yaml":
            lay_over(tree, _read_yaml(path))
    return tree


def lay_over(tree: dict[str, Any], other: dict[str, Any]) -> None:
    """Put the values of ``other`` into ``tree``, in place; sections that both have are joined."""
    for key, value in other.items():
        below = tree.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            lay_over(below, value)
        else:
            tree[key] = value


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give the path of a run file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text; give the path of a run file") from None
    except ValueError as error:  # a path that no file can have
        raise ConfigError(f"{path}: {error}; give the path of a run file") from None
    try:
        tree = yaml.load(text, _StrictLoader)
    except _YAML_FAULTS as error:
        raise ConfigError(f"{path}: {_yaml_fault(error)}; correct the YAML") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: holds a {kind_of(tree)}, not sections; write sections with keys below them, "
            "as in examples/demo.yaml"
        )
    return tree


def kind_of(value: object) -> str:
    """What YAML calls a value."""
    kinds = {dict: "section", list: "list", str: "text", bool: "yes or no", int: "number",
             float: "number", type(None): "nothing"}  # fmt: skip
    return kinds.get(type(value), type(value).__name__)


def _yaml_fault(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error) or type(error).__name__
    where = f"line {mark.line + 1}: " if mark is not None else ""
    return f"{where}{problem}"[:300]
