"""A part of a configuration: frozen, unknown keys refused, plain about numbers and text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

# What a signed 32-bit counter holds. No count of ours comes near; a longer number is a slip.
MAX_COUNT = 2**31 - 1

# Control characters but tab and line breaks, and halves of surrogate pairs: in no name, path or
# prompt, and no file can be written with them.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Section(BaseModel):
    """The base of every section. pydantic takes ``true`` for the number 1: here it is none."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
        if kinds & {int, float} and bool not in kinds:
            items = value if isinstance(value, (list, tuple)) else [value]
            if any(isinstance(item, bool) for item in items):
                raise ValueError("must be a number, not true or false; write the number")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _within_reach(cls, value: Any) -> Any:
        if type(value) is int and abs(value) > MAX_COUNT:
            raise ValueError(f"must be at most {MAX_COUNT}; choose such a number")
        if isinstance(value, (str, Path)):
            check_writable(str(value))
        return value


def check_writable(text: str) -> str:
    """``text`` itself. Raises ValueError where it holds what no file or name can."""
    found = _UNWRITABLE.search(text)
    if found:
        raise ValueError(f"holds the character U+{ord(found[0]):04X}; take it out")
    return text


def _kinds(annotation: Any) -> Iterator[type]:
    """The plain types an annotation names, literal values by their type."""
    if get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif get_origin(annotation) is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif get_args(annotation):
        for each in get_args(annotation):
            yield from _kinds(each)
    elif isinstance(annotation, type):
        yield annotation
