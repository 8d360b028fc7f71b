"""Run `gcg score` and read what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cli import main

Score = Callable[..., dict[str, Any]]
Refused = Callable[..., str]


@pytest.fixture
def score(capsys: pytest.CaptureFixture[str]) -> Score:
    """The result of a scoring that goes well, as its --json."""

    def run(*arguments: object) -> dict[str, Any]:
        capsys.readouterr()
        assert main(["score", *map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line in which a scoring is refused."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main(["score", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


def write(path: Path, value: Any) -> Path:
    """A file of text, or of anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
NEXTQA = (
    HEADER
    + "11,1,1,1,why,0,0,CW,run,sit,2,3,4\n11,1,1,1,how,1,1,CH,a,b,c,d,e\n"
    + "11,1,1,1,when,2,2,TP,a,b,c,d,e\n22,1,1,1,where,3,0,DL,a,b,c,d,e\n"
)
RIGHT = {"11_0": 0, "11_1": 1, "11_2": 2, "22_0": 3}
GSUB = {
    "11": {"duration": 40, "location": {"0": [[0, 10], [20, 30]], "1": [[5, 6]]}},
    "22": {"duration": 10, "location": {"0": [[2, 4]]}},
}
CAUSAL = ("descriptive", "explanatory", "predictive", "counterfactual")


@pytest.fixture
def nextqa(tmp_path: Path) -> Path:
    return write(tmp_path / "val.csv", NEXTQA)


@pytest.fixture
def nextgqa(tmp_path: Path) -> Path:
    write(tmp_path / "gsub_val.json", GSUB)
    return write(tmp_path / "val.csv", NEXTQA.replace("video", "video_id"))


@pytest.fixture
def causal(tmp_path: Path) -> Path:
    for video in ("v_1", "v2"):
        text: dict[str, Any] = {
            kind: {"question": kind, "answer": list("abcde")} for kind in CAUSAL
        }
        right: dict[str, Any] = {kind: {"answer": 1} for kind in CAUSAL}
        for kind in CAUSAL[2:]:
            text[kind]["reason"], right[kind]["reason"] = list("vwxyz"), 2
        write(tmp_path / "QA" / video / "text.json", text)
        write(tmp_path / "QA" / video / "answer.json", right)
    return tmp_path / "QA"
