"""Pages that are written when the site is built, from what they describe: the commands' own help
and the settings of a run file with their ranges and defaults."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

Schema = dict[str, Any]
_RULES = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """MkDocs asks for the files that it did not find on disk."""
    files.append(File.generated(config, "commands.md", content=commands_page()))
    files.append(File.generated(config, "settings.md", content=settings_page()))
    return files


def commands_page() -> str:
    """What `gcg COMMAND --help` prints of each command."""
    from launcher.cli import build_parser
    from launcher.commands.usage import commands

    lines = ["# Commands", "", "What `gcg COMMAND --help` says, in the order of a sample's way."]
    for name, stage in commands(build_parser()):
        stage.formatter_class = _formatter(stage)
        lines += ["", f"## gcg {name}", "", "```", stage.format_help().rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _formatter(stage: argparse.ArgumentParser) -> Any:
    class Wide(stage.formatter_class):  # not as wide as the terminal in which the site is built
        def __init__(self, prog: str) -> None:
            super().__init__(prog, width=100)

    return Wide


def settings_page() -> str:
    """Every setting of a run file: type and range, default, and what its section says."""
    from launcher.config import RunConfig

    schema = RunConfig.model_json_schema()
    known = schema["$defs"]
    lines = [
        "# Settings of a run file",
        "",
        "Every key that a run file may have; on the command line `--set section.key=value`. Unknown"
        " keys are refused. `–`: has to be given.",
    ]
    for title, section in _sections(schema, known, ""):
        lines += ["", f"## {title}", "", _prose(section), ""]
        lines += [
            "| setting | is | unless given |",
            "|---|---|---|",
            *_rows(section, schema["$defs"]),
        ]
    return "\n".join(lines) + "\n"


def _sections(schema: Schema, known: Schema, above: str) -> Iterator[tuple[str, Schema]]:
    for name, field in schema["properties"].items():
        section = _resolved(field, known)
        if "properties" in section:
            yield f"{above}{name}", section
            yield from _sections(section, known, f"{above}{name}.")


def _resolved(field: Schema, known: Schema) -> Schema:
    name = field.get("$ref", "").rpartition("/")[2]
    return known[name] if name else field


def _prose(section: Schema) -> str:
    """A class's words in Markdown: what is code, and what names another class."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", section.get("description", ""))
    return text.replace("``", "`")


def _rows(section: Schema, known: Schema) -> Iterator[str]:
    for name, field in section["properties"].items():
        if "properties" in _resolved(field, known):
            continue
        default = f"`{json.dumps(field['default'])}`" if "default" in field else "–"
        cells = [f"`{name}`", field["description"], _kind(field, known), default]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _kind(field: Schema, known: Schema) -> str:
    """Type and range in words."""
    if "anyOf" in field:
        return " or ".join(_kind(each, known) for each in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        items = field.get("items") or {}
        parts = field.get("prefixItems", [items])
        return f"list of {', '.join(_kind(each, known) for each in parts if each)}"
    if "$ref" in field:
        inner = _resolved(field, known)
        return "{" + ", ".join(inner["properties"]) + "}" if "properties" in inner else "section"
    words = {"null": "null", "string": "text", "integer": "integer", "number": "number"}
    kind = words.get(field.get("type", ""), field.get("type", "any"))
    rules = [f"{word} {field[key]:.10g}" for key, word in _RULES.items() if key in field]
    if "pattern" in field:
        rules.append(f"`{field['pattern']}`")
    return " ".join([kind, ", ".join(rules)]).strip()
