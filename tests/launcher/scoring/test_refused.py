"""What cannot be scored is told in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataloaders.importers import BENCHMARKS
from launcher.commands.score import BENCHMARKS as NAMED
from launcher.scoring.score import SCORERS

from .conftest import GSUB, HEADER, NEXTQA, RIGHT, Refused, write

BAD = [
    ("nextqa -a none.csv -p p.json", "none.csv: cannot be read"),
    ("nextqa -p p.json", "--annotations: not given"),
    ("nextqa -a val.csv", "--predictions: not given"),
    ("nextqa -a val.csv -p val.csv.json", "val.csv.json: not JSON"),
    ("nextqa -a val.csv -p one.json", "one.json: holds a int"),
    ("nextqa -a val.csv -p empty.json", "empty.json: has no predictions"),
    ("nextqa -a val.csv -p noid.json", "noid.json[0]: names no question"),
    ("nextqa -a val.csv -p lists.json", "prediction for 11_0"),
    ("nextqa -a val.csv -p p.json --spans p.json", "--spans p.json: nextqa has no such file"),
    ("nextqa -a type.csv -p p.json", "type.csv:2: type: 'XX'"),
    ("nextqa -a fault.csv -p p.json", "fault.csv:2: answer: 7"),
    ("nextgqa -a val.csv --spans p.json --weights p.json", "both given"),
    ("nextgqa -a val.csv --spans p.json --merge", "--merge: needs --spans and --weights"),
    ("nextgqa -a gold/val.csv -p p.json --share", "--share: only goes with --spans"),
    ("nextgqa -a val.csv --spans p.json", "gsub_val.json: cannot be read"),
    ("nextgqa -a gold/val.csv --weights p.json", "--frame-times: not given"),
    (
        "nextgqa -a gold/val.csv --weights w.json --frame-times times.json",
        "11: 1 times for 2 weights of 11_0",
    ),
    (
        "nextgqa -a gold/val.csv --weights w.json --frame-times texts.json",
        "11: 0 times for 2 weights of 11_0",
    ),
    ("nextgqa -a gold/val.csv --spans nan.json", "span of 11_0"),
    ("nextoe -a val.csv -p p.json", "--stopwords is not given"),
    ("causalvidqa -p p.json", "11_0: answer: None: not in 0..4"),
    ("causalvidqa -p whole.json", "v_1_0: answer: 2.0: not in 0..4"),
    ("nextqa -a val.csv -p deep.jsonl", "deep.jsonl:1: not JSON"),
    ("msvdqa -a twice.csv -p p.json", "question 1 is already at"),
]


@pytest.mark.parametrize(("command", "said"), BAD)
def test_what_cannot_be_scored_is_one_line(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("val.csv"), NEXTQA)
    write(Path("gold/val.csv"), NEXTQA)
    write(Path("gold/gsub_val.json"), GSUB)
    write(Path("p.json"), RIGHT)
    write(Path("val.csv.json"), NEXTQA)
    write(Path("one.json"), 1)
    write(Path("empty.json"), {})
    write(Path("noid.json"), [{"prediction": 1}])
    write(Path("lists.json"), {"11_0": [1]})
    write(Path("nan.json"), '{"11_0": [NaN, 1]}')
    write(Path("w.json"), {"11_0": [1, 2]})
    write(Path("times.json"), {"11": [1]})
    write(Path("texts.json"), {"11": ["1", "2"]})
    write(Path("whole.json"), {"v_1_0": {"prediction": 1, "answer": 2.0}})
    write(Path("deep.jsonl"), "[" * 100_000 + "\n")
    write(Path("type.csv"), HEADER + "11,1,1,1,q,0,0,XX,a,b,c,d,e\n")
    write(Path("fault.csv"), HEADER + "11,1,1,1,q,7,0,CW,a,b,c,d,e\n")
    write(Path("twice.csv"), "video,question,answer,qid\n1,q,a,1\n1,r,b,1\n")
    long = {"-a": "--annotations", "-p": "--predictions"}
    assert said in refused(*(long.get(word, word) for word in command.split()))


def test_a_pickle_that_runs_code_is_refused(causal: Path, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "test.pkl").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    said = refused(
        "causalvidqa", "--annotations", causal, "--ids", tmp_path / "test.pkl",
        "--predictions", write(tmp_path / "p.json", {"v2_0": 1}),
    )  # fmt: skip
    assert "os.system" in said or "posix.system" in said
    assert not Path("ran").exists()


def test_every_benchmark_is_named_where_it_can_be_asked_for() -> None:
    assert tuple(BENCHMARKS) == NAMED == tuple(SCORERS)
