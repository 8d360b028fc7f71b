"""NExT-OE: how close an answer's words are to the right ones in WordNet (WUPS).

https://github.com/doc-doc/NExT-OE/blob/main/eval_oe.py and metrics.py, which lemmatise with pywsd
(``lemmatize_sentence``); the same steps stand here on nltk alone. Needs nltk (extra ``wups``), its
data and the benchmark's own list of stop words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from dataloaders.importers.asked import Asked
from launcher.errors import UserError
from launcher.scoring.files import Pairs, read_json
from launcher.scoring.match import Matched
from launcher.scoring.result import Figure

_DATA = ("corpora/wordnet", "tokenizers/punkt_tab", "taggers/averaged_perceptron_tagger_eng")
_EXACT = ("DC", "DB")  # counting and yes/no: the same words or nothing
_POS = {"NN": "n", "JJ": "a", "VB": "v", "RB": "r"}
_ORDER = ("CW", "CH", "WUPS_C", "TN", "TC", "WUPS_T", "DB", "DC", "DL", "DO", "WUPS_D")
_PENALTY = 0.1  # a similarity below the threshold counts a tenth
Similarity = Callable[[str, str], float]


def score_answers(
    asked: Sequence[Asked],
    matched: Matched,
    stopwords: Iterable[str],
    references: Mapping[str, Mapping[str, str]],
) -> list[float]:
    """WUPS@0 of each answer, 0 to 1; the better one where there is a second reference.

    ``references``: by video and question id, ``add_reference_answer_*.json``.

    Raises:
        UserError: nltk or its data are not there, or a prediction is no text.
    """
    lemmatise, similarity = lemmatiser(frozenset(stopwords)), wordnet_similarity()
    scores = []
    for each in asked:
        given = matched.of(each)
        if given is None or given.value is None:
            scores.append(0.0)
            continue
        if not isinstance(given.value, str):
            raise UserError(f"prediction for {each.key}: not a text; correct the file")
        predicted = lemmatise(given.value)
        truths = [each.answer]
        if each.id in references.get(each.video, {}):
            truths.append(references[each.video][each.id])
        score = _equal if each.type in _EXACT else lambda a, b: wups(a, b, similarity)
        scores.append(max(score(predicted, lemmatise(truth)) for truth in truths))
    return scores


def figures(asked: Sequence[Asked], scores: Sequence[float]) -> list[Figure]:
    """In percent: by type (TP counts as TN), by group and over all, in the script's order."""
    sums: dict[str, list[float]] = {}
    for each, score in zip(asked, scores, strict=True):
        kind = "TN" if each.type == "TP" else each.type
        if kind not in _ORDER:
            raise UserError(f"{each.place}: type: {each.type!r}: none of NExT-OE's")
        sums.setdefault(kind, []).append(score)
        sums.setdefault(f"WUPS_{kind[0]}", []).append(score)
    found = [_mean(name, sums.get(name, [])) for name in _ORDER]
    return [*found, _mean("WUPS", list(scores))]


def wups(predicted: Sequence[str], truth: Sequence[str], similarity: Similarity) -> float:
    """The smaller of both directions: the product, over the words of one side, of each one's best
    similarity to a word of the other; words that are like none are passed over."""
    return min(_one_way(predicted, truth, similarity), _one_way(truth, predicted, similarity))


def _one_way(words: Sequence[str], others: Sequence[str], similarity: Similarity) -> float:
    product, found = 1.0, False
    for word in words:
        best = max((similarity(word, other) for other in others), default=0.0)
        if best > 0:
            product, found = product * best, True
    return product if found else 0.0


def _equal(predicted: Sequence[str], truth: Sequence[str]) -> float:
    return float(predicted == truth)


def _mean(name: str, scores: Sequence[float]) -> Figure:
    return Figure(name, sum(scores) / len(scores) * 100 if scores else None, len(scores))


def wordnet_similarity(threshold: float = 0.0) -> Similarity:
    """Wu-Palmer similarity of the first senses of two words, 1 for the same word.

    Raises UserError: nltk or WordNet are not there.
    """
    wordnet = _nltk().corpus.wordnet

    @cache
    def similarity(one: str, other: str) -> float:
        if one == other:
            return 1.0
        senses, others = wordnet.synsets(one), wordnet.synsets(other)
        if not senses or not others:
            return 0.0
        value = senses[0].wup_similarity(others[0]) or 0.0
        return value if value >= threshold else _PENALTY * value

    return similarity


def lemmatiser(stopwords: frozenset[str]) -> Callable[[str], list[str]]:
    """A text's words as WordNet has them, without stop words: as pywsd's ``lemmatize_sentence``.

    Raises UserError: nltk or its data are not there.
    """
    nltk = _nltk()
    pos_tag, word_tokenize, wordnet = nltk.pos_tag, nltk.word_tokenize, nltk.corpus.wordnet
    lemmas, stemmer = nltk.WordNetLemmatizer(), nltk.PorterStemmer()

    @cache
    def lemma(word: str, tag: str) -> str:
        pos = _POS.get(tag[:2]) or _POS.get(pos_tag([word])[0][1][:2], "n")
        found = lemmas.lemmatize(word, pos=pos)
        if wordnet.synsets(found):
            return found
        stem = stemmer.stem(word)
        return stem if wordnet.synsets(stem) else word

    @cache
    def words(text: str) -> tuple[str, ...]:
        found = [lemma(word.lower(), tag) for word, tag in pos_tag(word_tokenize(text))]
        # The script joins the words it keeps and tokenises them again before it compares.
        return tuple(word_tokenize(" ".join(w for w in found if w not in stopwords)))

    return lambda text: list(words(text))


def _nltk() -> Any:
    """nltk, once it is sure that its data are there."""
    try:
        nltk = import_module("nltk")
    except ImportError:
        raise UserError("nextoe: needs nltk for WordNet; pip install 'gcg-train[wups]'") from None
    lacking = [name.split("/")[1] for name in _DATA if not _there(nltk, name)]
    if lacking:
        raise UserError(
            f"nextoe: nltk has no {', '.join(lacking)}; python -m nltk.downloader "
            f"{' '.join(lacking)}, or set NLTK_DATA to a folder that has them"
        )
    return nltk


def _there(nltk: Any, name: str) -> bool:
    for place in (name, f"{name}.zip"):
        try:
            nltk.data.find(place)
            return True
        except LookupError:
            continue
    return False


def read_stopwords(path: Path | None) -> list[str]:
    """A word a line. Raises UserError: not given, or it cannot be read."""
    if path is None:
        raise UserError(
            "nextoe: --stopwords is not given; WUPS leaves out NExT-OE's own stop words "
            "(stopwords.txt of its repository), and other words would give other figures"
        )
    try:
        return [line.rstrip() for line in path.read_text(encoding="utf-8").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--stopwords {path}: cannot be read ({error}); give a text file") from None


def read_references(path: Path) -> dict[str, dict[str, str]]:
    """Second right answers by video and question. Raises UserError: not such a file."""
    found = read_json(path)
    if not isinstance(found, Pairs) or any(not isinstance(v, Pairs) for v in found.last.values()):
        raise UserError(f"{path}: not an object by video; give add_reference_answer_*.json")
    return {video: {k: str(v) for k, v in inner} for video, inner in found}
