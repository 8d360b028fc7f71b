"""What an image installs, a requirement a line: `requirements.py PYPROJECT VARIANT [EXTRA ...]`.

Dependencies change seldom and the project often, so they are a layer of their own, made without
the project's code: read from pyproject.toml, not from a wheel.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tomllib  # Python 3.11, which the image has

# Training, and data at s3:// and http(s)://. MosaicML's shards can be read without more.
EXTRAS = {
    "cpu": ("train", "mds", "s3", "http"),
    "gpu": ("train", "mds", "s3", "http", "dali"),
}


def requirements(pyproject: Path, variant: str, more: list[str]) -> list[str]:
    """The project's own and those of the variant's extras and ``more``, each once.

    Raises:
        SystemExit: there is no such variant or extra.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    if variant not in EXTRAS:
        raise SystemExit(f"{variant}: no such variant; choose from {', '.join(EXTRAS)}")
    names = [*EXTRAS[variant], *more]
    if unknown := [name for name in names if name not in optional]:
        raise SystemExit(f"{', '.join(unknown)}: no such extra; choose from {', '.join(optional)}")
    lines = [*project["dependencies"], *(line for name in names for line in optional[name])]
    return list(dict.fromkeys(lines))


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])) + "\n")
