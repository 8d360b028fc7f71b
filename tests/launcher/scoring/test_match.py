"""Every entry of a result file is counted once: it fits, is unknown, or is there again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dataloaders.importers.asked import Asked
from launcher.scoring.files import Given
from launcher.scoring.match import Keys, match

QUESTIONS = [Asked("p", v, n, f"{v}_{n}", "q", "a") for v in ("a", "b") for n in ("0", "1", "2")]
NAMES = [each.key for each in QUESTIONS]


@given(st.lists(st.sampled_from([*NAMES, "a_7", "c_0"]), max_size=15))
def test_every_entry_is_counted_once(keys: list[str]) -> None:
    found = match(QUESTIONS, [Given(key, place) for place, key in enumerate(keys)])
    assert len(keys) == len(found.given) + len(found.unknown) + len(found.repeated)
    assert sorted([*found.given, *found.missing]) == sorted(NAMES)
    assert all(not key.endswith("7") and key[0] != "c" for key in found.given)
    # Of several entries for one question the last counts.
    last = {key: place for place, key in enumerate(keys)}
    assert all(entry.value == last[key] for key, entry in found.given.items())
    assert found.whole == (sorted(keys) == sorted(NAMES))


def test_ways_to_name_a_question() -> None:
    find = Keys(QUESTIONS)
    assert find(Given("a_1", None)) == "a_1"
    assert find(Given("1", None, video="b")) == "b_1"
    assert find(Given("b_1", None, video="b")) == "b_1"
    assert find(Given("1", None)) is None  # of which video?
    assert find(Given("1", None, video="c")) is None
    # Ids that are unique in the whole file need no video, but may have one.
    find = Keys([Asked("p", "7010", "5", "5", "q", "a"), Asked("p", "x", "6", "6", "q", "a")])
    assert [find(Given(name, None)) for name in ("5", "7010_5", "x_5")] == ["5", "5", None]


def test_two_questions_with_one_number_share_what_is_given_for_it() -> None:
    twice = [Asked("p", "a", "5", "a_5", "q", "a"),
             Asked("p", "a", "5-2", "a_5-2", "r", "b", shared_key="a_5")]  # fmt: skip
    found = match(twice, [Given("5", "one", video="a")])
    assert [entry.value for each in twice if (entry := found.of(each))] == ["one", "one"]
    assert found.whole
    found = match(twice, [Given("a_5", "one"), Given("a_5-2", "two")])
    assert [entry.value for each in twice if (entry := found.of(each))] == ["one", "two"]
