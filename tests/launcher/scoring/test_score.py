"""`gcg score` on small files in the benchmarks' formats: figures by hand, and what does not fit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from dataloaders.importers import BENCHMARKS
from dataloaders.importers.star import TYPES
from launcher.cli import main
from launcher.commands.score import BENCHMARKS as NAMED
from launcher.scoring.score import SCORERS

from .conftest import Refused, Score, write

HEADER = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
NEXTQA = (
    HEADER
    + "11,1,1,1,why,0,0,CW,run,sit,2,3,4\n11,1,1,1,how,1,1,CH,a,b,c,d,e\n"
    + "11,1,1,1,when,2,2,TP,a,b,c,d,e\n22,1,1,1,where,3,0,DL,a,b,c,d,e\n"
)
RIGHT = {"11_0": 0, "11_1": 1, "11_2": 2, "22_0": 3}


@pytest.fixture
def nextqa(tmp_path: Path) -> Path:
    return write(tmp_path / "val.csv", NEXTQA)


def entries(**predictions: Any) -> dict[str, Any]:
    return {key: {"prediction": predictions.get(f"q{key}", RIGHT[key])} for key in RIGHT}


@pytest.mark.parametrize(
    "predictions",
    [
        {key: {"prediction": p, "answer": RIGHT[key]} for key, p in RIGHT.items()},
        {key: {"prediction": str(p), "answer": str(RIGHT[key])} for key, p in RIGHT.items()},
        {key: {"pred": float(p)} for key, p in RIGHT.items()},
        RIGHT,
        {key: "ABCDE"[p] for key, p in RIGHT.items()},
        {"11_0": "Run", "11_1": "b", "11_2": "c", "22_0": "d"},
        {"11": {"0": 0, "1": 1, "2": {"prediction": 2}}, "22": {"0": 3}},
        [{"video": key[:2], "qid": int(key[3:]), "prediction": p} for key, p in RIGHT.items()],
        [{"question_id": key, "answer": p} for key, p in RIGHT.items()],
    ],
    ids=["published", "texts", "floats", "bare", "letters", "options", "nested", "list", "keys"],
)
def test_forms_of_predictions(nextqa: Path, score: Score, predictions: Any) -> None:
    path = write(nextqa.with_name("p.json"), predictions)
    found = score("nextqa", "--annotations", nextqa, "--predictions", path)
    assert found["printed"]["Acc"] == "100.00"
    assert found["files"]["predictions"]["fit"] == 4
    assert found["notes"] == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "video,qid,prediction\n11,0,0\n11,1,1\n11,2,2\n22,0,3\n"),
        ("p.jsonl", '{"id": "11_0", "pred": 0}\n{"id": "11_1", "pred": 1}\n\n'
                    '{"id": "11_2", "pred": 2}\n{"id": "22_0", "pred": 3}\n'),
    ],
)  # fmt: skip
def test_tables_of_predictions(nextqa: Path, score: Score, name: str, text: str) -> None:
    path = write(nextqa.with_name(name), text)
    assert score("nextqa", "--annotations", nextqa, "--predictions", path)["figures"]["Acc"] == 100


def test_figures_by_hand(nextqa: Path, score: Score) -> None:
    path = write(nextqa.with_name("p.json"), {**RIGHT, "11_1": 0, "22_0": 9})
    found = score("nextqa", "--annotations", nextqa, "--predictions", path)
    assert found["printed"] == {
        "Why": "100.00", "How": "0.00", "Bef&Aft": "100.00", "When": "-", "Cnt": "-", "Loc": "0.00",
        "Other": "-", "Acc_C": "50.00", "Acc_T": "100.00", "Acc_D": "0.00", "Acc": "50.00",
    }  # fmt: skip
    assert found["notes"] == ["1 predictions are none of their question's options: wrong"]


def test_what_does_not_fit_is_counted_and_said(
    nextqa: Path, score: Score, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        '{"11_0": {"prediction": 3}, "11_0": {"prediction": 0}, "33_1": {"prediction": 1}, '
        '"22_0": {"prediction": 3, "answer": 2}, "11_2": {"prediction": null}}'
    )
    path = write(nextqa.with_name("p.json"), text)
    found = score("nextqa", "--annotations", nextqa, "--predictions", path)
    assert found["files"]["predictions"] == {
        "fit": 3, "missing": ["11_1"], "unknown": ["33_1"], "duplicate": ["11_0"],
    }  # fmt: skip
    assert found["printed"]["Acc"] == "50.00"  # of the same question's entries the last counts
    assert "1 entries name another right answer" in found["notes"][0]
    arguments = ["score", "nextqa", "--annotations", str(nextqa), "--predictions", str(path)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "predictions: 3 fit; 1 missing, 1 unknown, 1 duplicate" in said
    assert "missing (counted as wrong): 11_1" in said
    assert "unknown (in no figure): 33_1" in said
    assert "duplicate (the last entry counts): 11_0" in said
    assert main([*arguments, "--strict"]) == 1
    write(path, RIGHT)
    assert main([*arguments, "--strict"]) == 0


def test_two_options_with_one_text(tmp_path: Path, score: Score) -> None:
    nextqa = write(tmp_path / "val.csv", HEADER + "11,1,1,1,q,1,0,CW,a,a,b,c,d\n")
    given = ["nextqa", "--annotations", nextqa, "--predictions"]
    assert score(*given, write(tmp_path / "t.json", {"11_0": "a"}))["figures"]["Acc"] == 100
    # By number only one of them is right, as in the benchmark's script.
    assert score(*given, write(tmp_path / "n.json", {"11_0": 0}))["figures"]["Acc"] == 0


def test_intentqa_prints_the_types_it_has(tmp_path: Path, score: Score) -> None:
    path = write(tmp_path / "test.csv", NEXTQA.replace("video", "video_id"))
    found = score("intentqa", "--annotations", path, "--predictions",
                  write(tmp_path / "p.json", RIGHT))  # fmt: skip
    assert list(found["figures"]) == [
        "Why",
        "How",
        "Bef&Aft",
        "Loc",
        "Acc_C",
        "Acc_T",
        "Acc_D",
        "Acc",
    ]


GSUB = {
    "11": {"duration": 40, "location": {"0": [[0, 10], [20, 30]], "1": [[5, 6]]}},
    "22": {"duration": 10, "location": {"0": [[2, 4]]}},
}


@pytest.fixture
def nextgqa(tmp_path: Path) -> Path:
    write(tmp_path / "gsub_val.json", GSUB)
    return write(tmp_path / "val.csv", NEXTQA.replace("video", "video_id"))


def test_spans_by_hand(nextgqa: Path, score: Score) -> None:
    predictions = write(nextgqa.with_name("p.json"), {**RIGHT, "22_0": 0})
    # IoP and IoU are maximised each on its own: 5/15 and 5/20; one instant inside; 1/2 and 1/3.
    spans = {"11_0": [5, 20], "11_1": [5.5, 5.5], "22_0": {"span": [3, 5]}, "11_2": [0, 1]}
    path = write(nextgqa.with_name("s.json"), spans)
    given = ["nextgqa", "--annotations", nextgqa, "--predictions", predictions, "--spans", path]
    found = score(*given)
    assert found["printed"] == {
        "Why": "100.00", "How": "100.00", "Loc": "0.00", "Acc_C": "100.00", "Acc_D": "0.00",
        "Acc": "66.67", "Acc@GQA": "33.3", "mIoP": "61.1", "IoP@0.3": "100.0", "IoP@0.5": "66.7",
        "mIoU": "19.4", "IoU@0.3": "33.3", "IoU@0.5": "0.0",
    }  # fmt: skip
    assert found["files"]["spans"]["unknown"] == ["11_2"]  # without gold spans
    assert found["notes"] == ["1 questions without gold spans are in no figure"]
    # A question without a span is in no figure of moments, but its answer counts.
    write(path, {"22_0": [0, 10]})
    found = score(*given)
    assert (found["counts"]["mIoP"], found["counts"]["Acc"]) == (1, 3)
    assert found["files"]["spans"]["missing"] == ["11_0", "11_1"]
    assert found["rules"]["spans"].startswith("in no figure of moments")
    assert found["printed"]["mIoP"] == "20.0"


def test_answers_and_spans_in_one_file(nextgqa: Path, score: Score) -> None:
    both = {k: {"prediction": p, "answer": p, "location": [1, 3, 9]} for k, p in RIGHT.items()}
    path = write(nextgqa.with_name("both.json"), both)
    found = score("nextgqa", "--annotations", nextgqa, "--predictions", path, "--spans", path)
    assert found["counts"]["Acc@GQA"] == 3


def test_weights_with_fewer_values_than_times(nextgqa: Path, score: Score) -> None:
    write(nextgqa.with_name("frame2time_val.json"), {"11": [1, 2, 3, 4], "22": [1, 2, 3]})
    weights = write(
        nextgqa.with_name("w.json"), {"11_0": [0, 0, 1], "22_0": [0, 1, 0], "11_1": [1]}
    )
    found = score("nextgqa", "--annotations", nextgqa, "--weights", weights)
    assert found["notes"][-1].startswith("2 questions have fewer weights than frame times")


def test_spans_and_weights_merged(nextgqa: Path, score: Score, tmp_path: Path) -> None:
    write(tmp_path / "frame2time_val.json", {"11": [1, 2, 3, 4], "22": [1, 2, 3, 4]})
    spans = write(tmp_path / "s.json", {"11_0": [0, 0.05], "11_1": [0.5, 1]})
    weights = write(
        tmp_path / "w.json", {"11_0": [0, 1, 1, 0], "11_1": [0, 1, 1, 0], "22_0": [0, 1, 1, 0]}
    )
    given = ["nextgqa", "--annotations", nextgqa, "--spans", spans, "--share", "--weights", weights]
    out = tmp_path / "merged.json"
    score(*given, "--merge", "--write-spans", out)
    # 0 to 2 s and 2 to 3 s; 20 to 40 s has nothing of it; no mask at all.
    assert json.loads(out.read_text()) == {"11_0": [2, 2], "11_1": [2, 3], "22_0": [2, 3]}


CAUSAL = ("descriptive", "explanatory", "predictive", "counterfactual")


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


def test_causal_vidqa_is_right_only_with_the_reason(
    causal: Path, score: Score, tmp_path: Path
) -> None:
    right = [1, 1, 1, 2, 1, 2]
    results = {f"{v}_{n}": {"prediction": right[n], "answer": right[n]}
               for v in ("v_1", "v2") for n in range(6)}  # fmt: skip
    results["v2_0"]["prediction"] = results["v2_3"]["prediction"] = 0
    results["v_1_4"]["prediction"] = 4
    path = write(tmp_path / "r.json", results)
    found = score("causalvidqa", "--annotations", causal, "--predictions", path)
    assert found["printed"] == {
        "Description": "50.00", "Explanation": "100.00", "Predictive-Answer": "100.00",
        "Predictive-Reason": "50.00", "Counterfactual-Answer": "50.00",
        "Counterfactual-Reason": "100.00", "Predictive": "50.00", "Counterfactual": "50.00",
        "Acc": "62.50",
    }  # fmt: skip
    # As the benchmark's script: from the result file alone, whatever its order.
    write(path, dict(sorted(results.items(), reverse=True)))
    alone = score("causalvidqa", "--predictions", path)
    assert alone["printed"] == found["printed"]
    assert "what is missing cannot be told" in alone["notes"][0]
    (tmp_path / "valid.pkl").write_bytes(pickle.dumps(["v2"]))
    ids = ["--annotations", causal, "--ids", tmp_path / "valid.pkl"]
    found = score("causalvidqa", *ids, "--predictions", path)
    assert found["questions"] == 6
    assert len(found["files"]["predictions"]["unknown"]) == 6


STAR = [
    {
        "question_id": f"{kind}_T1_{n}", "video_id": "6H78U", "start": 1.5, "end": 9,
        "question": "Which?", "answer": "The bag.",
        "choices": [{"choice_id": 1, "choice": "The bag."}, {"choice_id": 0, "choice": "No."}],
    }
    for n, kind in enumerate(["Interaction", *TYPES])
]  # fmt: skip


@pytest.mark.parametrize("form", ["leaderboard", "by id"])
def test_star_ranks_by_the_mean_of_its_types(score: Score, tmp_path: Path, form: str) -> None:
    keys = [item["question_id"] for item in STAR]
    chosen = dict(zip(keys, [1, 0, 1, 1, 0], strict=True))
    if form == "by id":
        results: Any = {key: {"prediction": p, "answer": 1} for key, p in chosen.items()}
    else:
        results = {kind: [{"question_id": k, "answer": p} for k, p in chosen.items() if kind in k]
                   for kind in TYPES}  # fmt: skip
    found = score(
        *("star", "--annotations", write(tmp_path / "STAR_val.json", STAR)),
        *("--predictions", write(tmp_path / "p.json", results)),
    )
    assert found["printed"] == {
        "Interaction": "50.00", "Sequence": "100.00", "Prediction": "100.00", "Feasibility": "0.00",
        "Mean": "62.50", "Overall": "60.00",
    }  # fmt: skip


WORDS = [
    {"video_id": 7010, "question": "what is it?", "answer": "cat", "id": 5, "category_id": 1},
    {"video_id": 7010, "question": "Who runs?", "answer": "man", "id": 6, "category_id": 1},
    {"video_id": 7011, "question": "is it?", "answer": "2", "id": 7, "category_id": 1},
]


def test_words_are_compared_to_the_letter(score: Score, tmp_path: Path) -> None:
    questions = write(tmp_path / "test_qa.json", WORDS)
    answers = write(tmp_path / "prediction.json", [
        {"id": 5, "answer": "cat"}, {"id": 6, "answer": "A man"}, {"id": 7, "answer": 2},
    ])  # fmt: skip
    found = score("msrvttqa", "--annotations", questions, "--predictions", answers)
    assert [found["printed"][n] for n in ("What", "Who", "When", "Other", "All")] == [
        "100.00", "0.00", "-", "100.00", "66.67",
    ]  # fmt: skip
    assert found["notes"][0].startswith("1 answers are right but for case")
    # Numbers of a vocabulary, as classifiers write them: video and id in the key.
    numbers = {"7010_5": {"prediction": 3, "answer": 3}, "7010_6": {"prediction": 1, "answer": 9}}
    found = score("msrvttqa", "--annotations", questions, "--predictions",
                  write(tmp_path / "n.json", numbers))  # fmt: skip
    assert found["printed"]["All"] == "33.33"
    assert found["files"]["predictions"]["missing"] == ["7"]
    assert found["notes"][0].startswith("2 answers are numbers")


def test_ones_own_table(score: Score, tmp_path: Path) -> None:
    table = write(
        tmp_path / "mine.tsv",
        "video\tquestion\tanswer\ttype\toptions\tstart\tend\n"
        'a\tq\tleft\twhere\t["left", "right"]\t1\t3\n'
        'a\tr\tright\twhere\t["left", "right"]\t\t\n'
        "b\ts\tThe dog.\twho\t\t2\t4\n",
    )
    predictions = write(tmp_path / "p.json", {"a_0": "right", "a_1": "right", "b_0": "dog"})
    spans = write(tmp_path / "s.json", {"a_0": [1, 2], "b_0": [0, 4]})
    given = ["table", "--annotations", table, "--predictions", predictions, "--spans", spans]
    printed = score(*given)["printed"]
    assert [printed[n] for n in ("where", "who", "Acc", "Acc@GQA", "mIoP", "mIoU")] == [
        "50.00", "100.00", "66.67", "50.0", "75.0", "50.0",
    ]  # fmt: skip


# Command (-a: --annotations, -p: --predictions), and what the line says.
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
    ("nextgqa -a gold/val.csv --spans nan.json", "span of 11_0"),
    ("nextoe -a val.csv -p p.json", "--stopwords is not given"),
    ("causalvidqa -p p.json", "11_0: answer: None: not in 0..4"),
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
