"""The part of CEL that KubeRay's CRD rules are written in, evaluated strictly.

Grammar: `||`, `&&`, `!`, `==`, `!=`, `in`, parentheses, `has(path)`, lists, strings, integers, and
paths that start at `self`. Anything else raises `CelError`, so a rule of a later CRD cannot pass
because nobody read it.
"""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<op>\|\||&&|==|!=|[!()\[\],])|(?P<string>'[^']*'|\"[^\"]*\")|(?P<int>\d+)"
    r"|(?P<path>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*))"
)


# What an absent field evaluates to. CEL lets the other side of `&&` or `||` decide over it.
_UNSET = object()


class CelError(ValueError):
    """A rule outside the grammar above, or one that asks for a field that is not set."""


def holds(rule: str, self_value: Any) -> bool:
    """Whether `rule` is true of the object it is attached to."""
    parser = _Parser(rule, self_value)
    result = parser.either()
    if parser.peek() is not None:
        raise CelError(f"{rule!r}: not understood at {parser.peek()!r}")
    if result is _UNSET:
        raise CelError(f"{rule!r}: asks for a field that is not set")
    if not isinstance(result, bool):
        raise CelError(f"{rule!r}: is {result!r}, not true or false")
    return result


class _Parser:
    """Recursive descent that evaluates as it reads."""

    def __init__(self, rule: str, self_value: Any):
        self.rule = rule
        self.self_value = self_value
        self.tokens: list[tuple[str, str]] = []
        self.at = 0
        position, text = 0, rule.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise CelError(f"{rule!r}: not understood at {text[position:]!r}")
            kind = match.lastgroup or ""
            self.tokens.append((kind, match.group(kind)))
            position = match.end()

    def peek(self) -> str | None:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else None

    def take(self, expected: str | None = None) -> tuple[str, str]:
        if self.at >= len(self.tokens) or (expected and self.peek() != expected):
            raise CelError(f"{self.rule!r}: expected {expected or 'a value'}, got {self.peek()!r}")
        self.at += 1
        return self.tokens[self.at - 1]

    def either(self) -> Any:
        values = [self.both()]
        while self.peek() == "||":
            self.take()
            values.append(self.both())
        return _decided(values, True)

    def both(self) -> Any:
        values = [self.comparison()]
        while self.peek() == "&&":
            self.take()
            values.append(self.comparison())
        return _decided(values, False)

    def comparison(self) -> Any:
        value = self.unary()
        if self.peek() in ("==", "!=", "in"):
            _, operator = self.take()
            other = self.unary()
            if _UNSET in (value, other):
                return _UNSET
            if operator == "in":
                return value in other
            return (value == other) == (operator == "==")
        return value

    def unary(self) -> Any:
        kind, token = self.take()
        if token == "!":
            value = self.unary()
            return value if value is _UNSET else not value
        if token == "(":
            value = self.either()
            self.take(")")
            return value
        if token == "[":
            values = [self.unary()]
            while self.peek() == ",":
                self.take()
                values.append(self.unary())
            self.take("]")
            return values
        if token == "has":
            self.take("(")
            _, path = self.take()
            self.take(")")
            return self.look_up(path) is not _UNSET
        if kind == "path":
            return self.look_up(token)
        if kind == "string":
            return token[1:-1]
        if kind == "int":
            return int(token)
        raise CelError(f"{self.rule!r}: not understood at {token!r}")

    def look_up(self, path: str) -> Any:
        head, *fields = path.split(".")
        if head != "self":
            raise CelError(f"{self.rule!r}: {path} does not start at self")
        value = self.self_value
        for field in fields:
            if not isinstance(value, dict) or field not in value:
                return _UNSET
            value = value[field]
        return value


def _decided(values: list[Any], deciding: bool) -> Any:
    """`||` (deciding True) or `&&` (False) over the values; a single one is handed through."""
    if len(values) == 1:
        return values[0]
    if deciding in values:
        return deciding
    return _UNSET if _UNSET in values else not deciding
