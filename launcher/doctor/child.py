"""The process of one check: `python -m launcher.doctor.child MODULE:FUNCTION NAME OPTIONS FILE`."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict

from launcher.doctor.finding import Finding, Options


def main(argv: list[str]) -> None:
    """Write each finding as it comes: what follows may crash."""
    target, name, options, results = argv
    module, _, function = target.partition(":")
    with open(results, "a", encoding="utf-8") as out:  # noqa: PTH123
        for finding in _findings(module, function, name, Options(**json.loads(options))):
            out.write(json.dumps(asdict(finding)) + "\n")
            out.flush()


def _findings(module: str, function: str, name: str, options: Options) -> Iterator[Finding]:
    try:
        check: Callable[[Options], Iterator[Finding]]
        check = getattr(importlib.import_module(module), function)
        yield from check(options)
    except ModuleNotFoundError as error:
        yield Finding(
            name,
            "missing",
            f"the package {error.name} is not installed",
            "This check could not be made without it.",
            "see the packages above; `pip install 'gcg-train[train,dali]'` brings all",
        )
    except Exception as error:  # a check that fails is a finding, whatever the exception
        text = " ".join(str(error).split())
        yield Finding(
            name,
            "failed",
            f"{type(error).__name__}: {text}"[:500],
            "What this check asks of the machine, a training worker asks of it, too.",
            "look for the library or device named; the other checks are unaffected",
        )


if __name__ == "__main__":
    main(sys.argv[1:])
