"""From a benchmark's annotations and a result file to its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataloaders.importers import Files, read_asked
from dataloaders.importers.asked import Asked
from dataloaders.importers.openended import read_activitynet_answers
from launcher.errors import UserError
from launcher.scoring import choice, grounding, open_ended, reasoned, situated, wups
from launcher.scoring.files import SPANS, read_given
from launcher.scoring.match import Matched, check_questions, match
from launcher.scoring.result import Figure, Result

_LEFT_OUT = "in no figure of moments, as in the benchmark's script"


@dataclass(frozen=True)
class Inputs:
    """The files of one scoring; see `gcg score --help`."""

    annotations: Path | None = None
    predictions: Path | None = None
    spans: Path | None = None
    weights: Path | None = None
    frame_times: Path | None = None
    gold_spans: Path | None = None
    share: bool = False
    merge: bool = False
    write_spans: Path | None = None
    ids: Path | None = None
    stopwords: Path | None = None
    references: Path | None = None


def score(name: str, inputs: Inputs) -> Result:
    """The official figures of a benchmark. Raises UserError or DataError: a file cannot be used."""
    _check_options(name, inputs)
    return SCORERS[name](name, inputs)


_OPTIONS = {
    "--spans": "spans",
    "--weights": "weights",
    "--frame-times": "frame_times",
    "--gold-spans": "gold_spans",
    "--write-spans": "write_spans",
    "--ids": "ids",
    "--stopwords": "stopwords",
    "--references": "references",
}
_MOMENTS = ("--spans", "--weights", "--frame-times", "--write-spans")
_TAKES = {
    "nextgqa": (*_MOMENTS, "--gold-spans"),
    "table": _MOMENTS,
    "causalvidqa": ("--ids",),
    "nextoe": ("--stopwords", "--references"),
}


def _check_options(name: str, inputs: Inputs) -> None:
    for option, field in _OPTIONS.items():
        value = getattr(inputs, field)
        if value is not None and option not in _TAKES.get(name, ()):
            raise UserError(f"{option} {value}: {name} has no such file; leave it out")
    if inputs.annotations is None and name != "causalvidqa":
        raise UserError(f"--annotations: not given; {name} needs the file of the questions")
    if inputs.predictions is None and inputs.spans is None and inputs.weights is None:
        raise UserError("--predictions: not given; name the result file")
    both = inputs.spans is not None and inputs.weights is not None
    if both and not inputs.merge:
        raise UserError("--spans and --weights: both given; leave one out, or --merge them")
    if inputs.merge and not both:
        raise UserError("--merge: needs --spans and --weights; give both")
    if inputs.weights is None and (inputs.frame_times or inputs.write_spans):
        raise UserError("--frame-times and --write-spans: only go with --weights; leave them out")
    if inputs.share and inputs.spans is None:
        raise UserError("--share: only goes with --spans; leave it out")


def _questions(name: str, inputs: Inputs) -> list[Asked]:
    assert inputs.annotations is not None
    if name == "activitynetqa":
        asked = read_activitynet_answers(Files(inputs.annotations))
    else:
        asked = read_asked(name, Files(inputs.annotations, inputs.gold_spans, inputs.ids))
    check_questions(asked)
    return asked


def _answers(inputs: Inputs, asked: Sequence[Asked]) -> Matched:
    assert inputs.predictions is not None
    return match(asked, read_given(inputs.predictions))


def _choices(name: str, inputs: Inputs) -> Result:
    """NExT-QA, IntentQA and STAR."""
    asked = _questions(name, inputs)
    if any(each.options is None for each in asked):
        raise UserError(f"{inputs.annotations}: has no options a0, a1, ...; is it NExT-OE's?")
    matched = _answers(inputs, asked)
    judged = choice.judge(asked, matched)
    if name == "star":
        figures = situated.figures(asked, judged.right)
    else:
        figures = choice.group_figures(asked, judged.right, empty=name == "nextqa")
    return Result(name, len(asked), figures, {"predictions": matched}, {}, judged.notes)


def _causal(name: str, inputs: Inputs) -> Result:
    assert inputs.predictions is not None
    given = read_given(inputs.predictions)
    notes = []
    if inputs.annotations is not None:
        asked = _questions(name, inputs)
    elif inputs.ids is not None:
        raise UserError(f"--ids {inputs.ids}: only goes with --annotations; leave it out")
    else:
        asked = reasoned.questions_of(given)
        notes.append(
            "without --annotations the right answers are those in the result file, as in the "
            "benchmark's script: what is missing cannot be told"
        )
    matched = match(asked, given)
    judged = choice.judge(asked, matched)
    figures = reasoned.figures(asked, judged.right)
    notes += judged.notes
    return Result(name, len(asked), figures, {"predictions": matched}, {}, notes)


def _words(name: str, inputs: Inputs) -> Result:
    """MSVD-QA, MSRVTT-QA and ActivityNet-QA."""
    asked = _questions(name, inputs)
    matched = _answers(inputs, asked)
    compared = open_ended.compare(asked, matched)
    notes = list(compared.notes)
    if name == "activitynetqa":
        figures, more = open_ended.activitynet_figures(asked, compared.right)
        notes += more
    else:
        figures = open_ended.word_figures(asked, compared.right)
    return Result(name, len(asked), figures, {"predictions": matched}, {}, notes)


def _nextoe(name: str, inputs: Inputs) -> Result:
    stopwords = wups.read_stopwords(inputs.stopwords)
    asked = _questions(name, inputs)
    matched = _answers(inputs, asked)
    assert inputs.annotations is not None
    beside = inputs.annotations.with_name(f"add_reference_answer_{inputs.annotations.stem}.json")
    path = inputs.references or (beside if beside.is_file() else None)
    references = {} if path is None else wups.read_references(path)
    scores = wups.score_answers(asked, matched, stopwords, references)
    notes = [f"second right answers from {path}"] if path else []
    return Result(
        name, len(asked), wups.figures(asked, scores), {"predictions": matched}, {}, notes
    )


def _grounded(name: str, inputs: Inputs) -> Result:
    """NExT-GQA, and a table whose questions may have spans."""
    if name == "nextgqa":
        inputs = _with_gold(inputs)
    asked = _questions(name, inputs)
    notes: list[str] = []
    if name == "nextgqa":
        total, asked = len(asked), [each for each in asked if each.spans]
        if not asked:
            raise UserError(
                f"{inputs.annotations}: no gold spans; NExT-GQA's lie in gsub_<split>.json beside "
                "it, or name them with --gold-spans"
            )
        if len(asked) < total:
            notes.append(f"{total - len(asked)} questions without gold spans are in no figure")
    files: dict[str, Matched] = {}
    right, figures = [False] * len(asked), []
    if inputs.predictions is not None:
        files["predictions"] = matched = _answers(inputs, asked)
        right, more = _right(asked, matched)
        notes += more
        figures = (
            choice.group_figures(asked, right, empty=False)
            if name == "nextgqa"
            else open_ended.type_figures(asked, right)
        )
    if inputs.spans is not None or inputs.weights is not None:
        figures += _moments(inputs, asked, right, files, notes)
    rules = {option: _LEFT_OUT for option in files if option != "predictions"}
    return Result(name, len(asked), figures, files, rules, notes)


def _right(asked: Sequence[Asked], matched: Matched) -> tuple[list[bool], list[str]]:
    """Of questions with options and without, each by its own rule."""
    chosen = [each for each in asked if each.options is not None]
    written = [each for each in asked if each.options is None]
    judged = choice.judge(chosen, matched)
    compared = open_ended.compare(written, matched, exact=False)
    by_key = dict(zip((e.key for e in chosen), judged.right, strict=True))
    by_key |= dict(zip((e.key for e in written), compared.right, strict=True))
    return [by_key[each.key] for each in asked], judged.notes


def _moments(
    inputs: Inputs,
    asked: Sequence[Asked],
    right: Sequence[bool],
    files: dict[str, Matched],
    notes: list[str],
) -> list[Figure]:
    grounded = [each for each in asked if each.spans]
    spans = _given_spans(inputs, grounded, files, notes) if inputs.spans is not None else {}
    if inputs.weights is not None:
        weighted = _weighted_spans(inputs, grounded, files, notes)
        spans = grounding.merged(spans, weighted) if inputs.merge else weighted
        if inputs.write_spans is not None:
            grounding.write_spans(inputs.write_spans, spans)
    overlaps = grounding.overlaps(asked, spans, right)
    return grounding.figures(overlaps, inputs.predictions is not None)


def _given_spans(
    inputs: Inputs, asked: Sequence[Asked], files: dict[str, Matched], notes: list[str]
) -> dict[str, grounding.Span]:
    assert inputs.spans is not None
    files["spans"] = matched = match(asked, read_given(inputs.spans, SPANS))
    durations = None
    if inputs.share:
        if inputs.gold_spans is None:
            raise UserError("--share: needs NExT-GQA's gsub_*.json for the durations")
        durations = grounding.read_durations(inputs.gold_spans)
    spans = grounding.spans_of(asked, matched, durations)
    if backwards := sum(end < start for start, end in spans.values()):
        notes.append(f"{backwards} spans end before they start: they overlap with nothing")
    if spans and durations is None and all(end <= 1 for _, end in spans.values()):
        notes.append("all spans end within 1 s: if they are shares of the video, add --share")
    return spans


def _weighted_spans(
    inputs: Inputs, asked: Sequence[Asked], files: dict[str, Matched], notes: list[str]
) -> dict[str, grounding.Span]:
    assert inputs.weights is not None
    path = inputs.frame_times
    if path is None:
        raise UserError("--frame-times: not given; --weights need frame2time_<split>.json")
    files["weights"] = matched = match(asked, read_given(inputs.weights, ("weights",)))
    spans, more = grounding.weighted_spans(asked, matched, grounding.read_times(path))
    notes += more
    return spans


def _with_gold(inputs: Inputs) -> Inputs:
    """Find NExT-GQA's files from one of them: the folder, the CSV or ``gsub_*.json``."""
    path, gold = inputs.annotations, inputs.gold_spans
    assert path is not None
    if path.is_dir():
        found = sorted(path.glob("gsub_*.json"))
        if len(found) != 1:
            raise UserError(
                f"--annotations {path}: has {len(found)} gsub_*.json; name the CSV of one split"
            )
        path = found[0]
    if path.suffix == ".json":
        gold, path = gold or path, path.with_name(f"{path.stem.removeprefix('gsub_')}.csv")
        if not path.is_file():
            raise UserError(f"{path}: is not beside {gold.name}; name the CSV of the questions")
    gold = gold or path.with_name(f"gsub_{path.stem}.json")
    times = inputs.frame_times
    if times is None and inputs.weights is not None:
        beside = path.with_name(f"frame2time_{path.stem}.json")
        times = beside if beside.is_file() else None
    return replace(inputs, annotations=path, gold_spans=gold, frame_times=times)


SCORERS: dict[str, Callable[[str, Inputs], Result]] = {
    "nextqa": _choices,
    "nextoe": _nextoe,
    "nextgqa": _grounded,
    "intentqa": _choices,
    "causalvidqa": _causal,
    "star": _choices,
    "msvdqa": _words,
    "msrvttqa": _words,
    "activitynetqa": _words,
    "table": _grounded,
}
