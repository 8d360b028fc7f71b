"""pydantic's findings as one-line messages: ``path = value: rule; remedy``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_MISSING = object()
_MAX_VALUE_CHARS = 60


def explain(error: ValidationError, model: type[BaseModel], data: Mapping[str, Any]) -> list[str]:
    """One line for each problem in ``error``, in the order of the fields."""
    return [_line(detail, model, data) for detail in error.errors(include_url=False)]


def shorten(value: object) -> str:
    """``repr`` cut to a length that fits a terminal line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= _MAX_VALUE_CHARS else text[: _MAX_VALUE_CHARS - 1] + "…"


def nearest(name: str, known: list[str]) -> str | None:
    """The most similar known name, or None when nothing is close."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return close[0] if close else None


def _line(detail: ErrorDetails, model: type[BaseModel], data: Mapping[str, Any]) -> str:
    loc = tuple(detail["loc"])
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown_key(loc, model, detail["input"])
    if kind == "missing":
        return f"{_dotted(loc)}: is required; add it to the run file or give --set {_dotted(loc)}=…"
    if kind == "value_error":
        return _rule_of_ours(detail, model, data)
    return f"{_dotted(loc)} = {shorten(detail['input'])}: {_rule(detail)}"


def _rule(detail: ErrorDetails) -> str:
    context = detail.get("ctx") or {}
    bounds = {
        "greater_than": ("must be greater than", "gt"),
        "greater_than_equal": ("must be at least", "ge"),
        "less_than": ("must be less than", "lt"),
        "less_than_equal": ("must be at most", "le"),
    }
    kind = detail["type"]
    if kind in bounds:
        words, key = bounds[kind]
        return f"{words} {context[key]}; choose such a value"
    if kind in ("literal_error", "enum"):
        return f"must be one of {context['expected']}; choose one of them"
    if kind in ("model_type", "dict_type", "mapping_type", "model_attributes_type"):
        return "must be a section with keys below it; indent its keys under it"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}; use letters, digits, '.', '_' and '-'"
    if kind == "finite_number":
        return "must be a finite number; give one"
    message = detail["msg"]
    return f"{message[0].lower()}{message[1:]}; give a value of that kind"


def _rule_of_ours(detail: ErrorDetails, model: type[BaseModel], data: Mapping[str, Any]) -> str:
    # A validator of a whole section says in words which of its fields is at fault.
    loc = tuple(detail["loc"])
    message = str((detail.get("ctx") or {}).get("error", detail["msg"]))
    section = section_at(model, loc)
    if section is not None:
        words = re.findall(r"[A-Za-z_][A-Za-z_0-9]*", message)
        field = next((word for word in words if word in section.model_fields), None)
        if field is not None:
            loc = (*loc, field)
    value = _value_at(data, loc)
    if value is _MISSING and section is not None and loc:
        value = _default_of(section, str(loc[-1]))
    shown = "" if value is _MISSING or isinstance(value, Mapping) else f" = {shorten(value)}"
    return f"{_dotted(loc)}{shown}: {message}"


def _unknown_key(loc: tuple[int | str, ...], model: type[BaseModel], value: object) -> str:
    section = section_at(model, loc[:-1])
    known = list(section.model_fields) if section is not None else []
    guess = nearest(str(loc[-1]), known)
    remedy = f"did you mean {guess!r}?" if guess else f"known keys: {', '.join(known)}"
    return f"{_dotted(loc)} = {shorten(value)}: unknown key; {remedy}"


def section_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The section class that a path leads to, or None where it leads to a plain value."""
    here: type[BaseModel] | None = model
    for part in loc:
        if here is None or part not in here.model_fields:
            return None
        kind: Any = here.model_fields[str(part)].annotation
        here = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return here


def _value_at(data: Mapping[str, Any], loc: tuple[int | str, ...]) -> object:
    here: Any = data
    for part in loc:
        if not isinstance(here, Mapping) or part not in here:
            return _MISSING
        here = here[part]
    return here


def _default_of(section: type[BaseModel], field: str) -> object:
    info = section.model_fields.get(field)
    return _MISSING if info is None or info.is_required() else info.get_default()


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc)
