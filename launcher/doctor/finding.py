"""What a check found, and how it is told."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "warning", "missing", "failed"]
_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    ok: as it should be. warning: it works, but slowly or not for everything. missing: this kind
    of machine does not have it, and need not. failed: it ought to work here and does not.
    ``why`` says what depends on it and ``remedy`` what to do; both may be empty where state is ok.
    """

    check: str
    state: State
    found: str
    why: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Options:
    """What the checks are told: whether the machine has a GPU, and which places to try."""

    gpu: bool = False
    data: str | None = None
    storage: str | None = None


def is_sound(findings: Sequence[Finding]) -> bool:
    return all(finding.state != "failed" for finding in findings)


def table(findings: Sequence[Finding]) -> str:
    """Aligned columns: check, state, what was found; below what is not ok, why and what to do."""
    names = max(len(finding.check) for finding in findings)
    indent = " " * (names + 11)
    lines = []
    for finding in findings:
        text = finding.found
        if finding.state != "ok":
            more = [finding.why, f"Remedy: {finding.remedy}" if finding.remedy else ""]
            text = "\n".join([text, *filter(None, more)])
        wrapped = [
            line
            for part in text.splitlines() or [""]
            for line in textwrap.wrap(part, max(30, _WIDTH - len(indent))) or [""]
        ]
        lines.append(f"{finding.check:<{names}}  {finding.state:<7}  {wrapped[0]}")
        lines += [indent + line for line in wrapped[1:]]
    counts = dict.fromkeys(("ok", "warning", "missing", "failed"), 0)
    for finding in findings:
        counts[finding.state] += 1
    lines.append("")
    lines.append(", ".join(f"{count} {state}" for state, count in counts.items()))
    return "\n".join(lines)


def tree(findings: Sequence[Finding], options: Options) -> dict[str, object]:
    """The same as plain values, for JSON."""
    return {
        "machine": "gpu" if options.gpu else "cpu",
        "sound": is_sound(findings),
        "findings": [asdict(finding) for finding in findings],
    }
