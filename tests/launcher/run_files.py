"""Small run files, right and wrong, and what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.config import parse_run_config
from launcher.errors import ConfigError

MINIMAL: dict[str, Any] = {
    "run": {"name": "demo"},
    "data": {"train": "packed/train"},
    "optim": {"steps": 100},
}


def write(folder: Path, tree: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def lines_of(tree: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_run_config(tree)
    assert all("\n" not in line for line in caught.value.lines)
    return caught.value.lines


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {**MINIMAL.get(name, {}), **sections.get(name, {})}
        for name in MINIMAL.keys() | sections.keys()
    }
