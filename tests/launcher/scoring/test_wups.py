"""NExT-OE's WUPS: the arithmetic by hand, and the words by WordNet where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataloaders.importers.asked import Asked
from launcher.errors import UserError
from launcher.scoring import wups
from launcher.scoring.files import Given
from launcher.scoring.match import Matched

from .conftest import Refused, Score, write

HEADER = "video,frame_count,width,height,question,answer,qid,type\n"
ROWS = (
    HEADER
    + "11,1,1,1,why,to run to the dogs,0,CW\n11,1,1,1,when,sit down,1,TP\n"
    + "11,1,1,1,is it,yes,2,DB\n11,1,1,1,how many,two,3,DC\n22,1,1,1,where,home,0,DL\n"
)
STOP = "to\nthe\n"
ALIKE = {("dog", "cat"): 0.8, ("run", "walk"): 0.5, ("run", "cat"): 0.2}


def alike(one: str, other: str) -> float:
    return 1.0 if one == other else ALIKE.get((one, other), ALIKE.get((other, one), 0.0))


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        ("dog", "dog", 1.0),
        ("dog", "cat", 0.8),
        ("dog run", "cat walk", 0.8 * 0.5),
        # A word that is like none is passed over: once on this side, not on the other.
        ("dog", "cat house", 0.8),
        ("run", "walk cat", min(0.5, 0.5 * 0.2)),
        ("house", "dog", 0.0),
        ("", "dog", 0.0),
        ("", "", 0.0),
    ],
)
def test_by_hand(predicted: str, truth: str, expected: float) -> None:
    assert wups.wups(predicted.split(), truth.split(), alike) == pytest.approx(expected)
    assert wups.wups(truth.split(), predicted.split(), alike) == pytest.approx(expected)


def asked(kind: str, place: str = "p") -> Asked:
    return Asked(place, "v", "0", "v_0", "q", "a", type=kind)


def test_figures_by_type_and_group() -> None:
    kinds = ["CW", "CW", "CH", "TP", "TN", "DB", "DO"]
    found = wups.figures([asked(kind) for kind in kinds], [0.5, 0, 1, 0.2, 0.4, 1, 0])
    printed = {figure.name: figure.printed for figure in found}
    assert printed == {
        "CW": "25.00", "CH": "100.00", "WUPS_C": "50.00", "TN": "30.00", "TC": "-",
        "WUPS_T": "30.00", "DB": "100.00", "DC": "-", "DL": "-", "DO": "0.00", "WUPS_D": "50.00",
        "WUPS": "44.29",
    }  # fmt: skip
    with pytest.raises(UserError, match="p9: type: 'XX': none of NExT-OE's"):
        wups.figures([asked("XX", "p9")], [0.0])


def has_wordnet() -> bool:
    try:
        wups.wordnet_similarity()
    except UserError:
        return False
    return True


def test_what_is_lacking_is_said(tmp_path: Path, refused: Refused) -> None:
    if has_wordnet():
        pytest.skip("nltk and its data are here")
    given = ["--annotations", write(tmp_path / "val.csv", ROWS)]
    given += ["--predictions", write(tmp_path / "p.json", {"11": {"0": "run"}})]
    said = refused("nextoe", *given, "--stopwords", write(tmp_path / "s.txt", STOP))
    assert "pip install 'gcg-train[wups]'" in said or "python -m nltk.downloader" in said


@pytest.fixture
def wordnet() -> None:
    if not has_wordnet():
        pytest.skip("needs nltk with wordnet, punkt_tab and averaged_perceptron_tagger_eng")


@pytest.mark.usefixtures("wordnet")
def test_words_are_lemmatised_and_stop_words_left_out(tmp_path: Path, score: Score) -> None:
    annotations = write(tmp_path / "val.csv", ROWS)
    given = ["--annotations", annotations, "--stopwords", write(tmp_path / "s.txt", STOP)]
    right = {"11": {"0": "running to dog", "1": "sits down", "2": "yes", "3": "to two"}}
    path = write(tmp_path / "p.json", {**right, "22": {"0": "house"}})
    printed = score("nextoe", *given, "--predictions", path)["printed"]
    assert [printed[name] for name in ("CW", "TN", "DB", "DC")] == ["100.00"] * 4
    assert 0 < float(printed["DL"]) < 100
    # A second right answer counts if it is the better one.
    write(tmp_path / "add_reference_answer_val.json", {"22": {"0": "houses"}})
    found = score("nextoe", *given, "--predictions", path)
    assert found["printed"]["WUPS"] == "100.00"
    assert "second right answers from" in found["notes"][0]
    # Counting and yes/no are all or nothing; what is missing is nothing.
    write(path, {"11": {"2": "no", "3": "three"}})
    found = score("nextoe", *given, "--predictions", path)
    assert found["printed"]["WUPS_D"] == "0.00"
    assert found["files"]["predictions"]["missing"] == ["11_0", "11_1", "22_0"]


@pytest.mark.usefixtures("wordnet")
def test_a_prediction_that_is_no_text() -> None:
    matched = Matched({"v_0": Given("v_0", 3)})
    with pytest.raises(UserError, match="prediction for v_0: not a text"):
        wups.score_answers([asked("CW")], matched, [], {})
