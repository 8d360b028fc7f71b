"""pydantic's findings as one-line messages: ``path = value: rule; remedy``."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dataloaders.trust import is_secret_name, redacted

_MISSING = object()
_MAX_VALUE_CHARS = 60
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,60}")


def explain(error: ValidationError, model: type[BaseModel], data: Mapping[str, Any]) -> list[str]:
    """One line for each problem in ``error``, in the order of the fields."""
    return [_line(detail, model, data) for detail in error.errors(include_url=False)]


def shorten(value: object) -> str:
    """``repr`` cut to a length that fits a terminal line, however much ``value`` holds."""
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= _MAX_VALUE_CHARS else text[: _MAX_VALUE_CHARS - 1] + "…"


class _Short(reprlib.Repr):
    """``repr`` of the first few items. YAML's anchors make huge things out of a few lines."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict, self.maxset, self.maxtuple = 3, 6, 6, 6, 6
        self.maxstring = self.maxother = 2 * _MAX_VALUE_CHARS

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redacted(x), level)  # before it is cut: then no URL is to be seen

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        shown = {key: "…" if is_secret_name(str(key)) else value for key, value in x.items()}
        return super().repr_dict(shown, level)

    def repr_bool(self, x: bool, level: int) -> str:
        return str(x).lower()  # as YAML writes it

    def repr_NoneType(self, x: None, level: int) -> str:
        return "null"

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write a number of more than 4,300 digits.
        return repr(x) if x.bit_length() < 10_000 else f"a number of {x.bit_length()} bits"


_SHORT = _Short()


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
        return _missing(loc, model, detail["input"])
    if kind == "value_error":
        return _rule_of_ours(detail, model, data)
    return f"{dotted(loc)} = {shorten(detail['input'])}: {_rule(detail)}"


def _missing(loc: tuple[int | str, ...], model: type[BaseModel], found: object) -> str:
    path = dotted(loc)
    if isinstance(loc[-1], int):  # an item of a list of fixed length
        return f"{dotted(loc[:-1])} = {shorten(found)}: has too few items; give one more"
    if section_at(model, loc) is not None:
        return f"{path}: is required; add the section with its keys to the run file"
    return f"{path}: is required; add it to the run file or give --set {path}=…"


_BOUNDS = {
    "greater_than": ("must be greater than", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be less than", "lt"),
    "less_than_equal": ("must be at most", "le"),
}

# Rule and remedy by the beginning of pydantic's name for the fault.
_RULES = {
    "model_": "must be a section with keys below it; indent its keys under it",
    "dict_type": "must be a section with keys below it; indent its keys under it",
    "invalid_key": "a key must be text; put it in quotes",
    "int_": "must be a whole number; write one, without quotes",
    "float_": "must be a number; write one, such as 0.1",
    "finite_number": "must be a finite number; give one",
    "bool_": "must be true or false; write one of them",
    "string_type": "must be text; put it in quotes",
    "string_too_short": "must not be empty; give a name",
    "string_unicode": "must be text; put it in quotes",
    "path_type": "must be a path; write it as text",
    "tuple_type": "must be a list; write it as [a, b]",
    "too_long": "has too many items; leave some out",
    "too_short": "has too few items; give one more",
    "recursion_loop": "refers to itself; write the value out",
}


def _rule(detail: ErrorDetails) -> str:
    context = detail.get("ctx") or {}
    kind = detail["type"]
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{words} {context[key]}; choose such a value"
    if kind == "literal_error":
        expected = str(context["expected"])
        given = detail["input"]
        choices = re.findall("'([^']*)'", expected)
        near = nearest(given[:60], choices) if isinstance(given, str) else None
        remedy = f"did you mean {near!r}?" if near else "choose one of them"
        return f"must be one of {expected}; {remedy}"
    if kind == "string_pattern_mismatch":
        return (
            f"must match {context['pattern']}; use letters, digits, '.', '_' and '-', the first "
            "a letter or digit"
        )
    if kind == "string_too_long":
        return f"must have at most {context['max_length']} characters; shorten it"
    for beginning, rule in _RULES.items():
        if kind.startswith(beginning):
            return rule
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
    return f"{dotted(loc)}{shown}: {message}"


def _unknown_key(loc: tuple[int | str, ...], model: type[BaseModel], value: object) -> str:
    section = section_at(model, loc[:-1])
    known = list(section.model_fields) if section is not None else []
    guess = nearest(str(loc[-1])[:60], known)
    remedy = f"did you mean {guess!r}?" if guess else f"known keys: {', '.join(known)}"
    shown = "…" if is_secret_name(str(loc[-1])) else shorten(value)
    return f"{dotted(loc)} = {shown}: unknown key; {remedy}"


def section_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The section class that a path leads to, or None where it leads to a plain value."""
    here: Any = model
    for part in loc:
        if isinstance(part, int):
            here = next(iter(get_args(here)), None)
            continue
        section = _section(here)
        if section is None or part not in section.model_fields:
            return None
        here = section.model_fields[part].annotation
    return _section(here)


def _section(annotation: Any) -> type[BaseModel] | None:
    is_one = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_one else None


def _value_at(data: Any, loc: tuple[int | str, ...]) -> object:
    here: Any = data
    for part in loc:
        try:
            here = here[part]
        except (LookupError, TypeError):
            return _MISSING
    return here


def _default_of(section: type[BaseModel], field: str) -> object:
    info = section.model_fields.get(field)
    return _MISSING if info is None or info.is_required() else info.get_default()


def dotted(loc: tuple[int | str, ...]) -> str:
    """``data.mixture[0].place``; a part that is no plain key is quoted."""
    path = ""
    for part in loc:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part if _PLAIN.fullmatch(part) else shorten(part)}"
    return path.removeprefix(".")
