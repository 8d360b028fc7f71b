"""Label strategies: each against what it is said to do, on rows small enough to see it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gcg.labels import (
    STRATEGIES,
    Contrast,
    Evidence,
    Merge,
    Order,
    Steepness,
    Strategy,
    TopK,
    direction,
    gather_evidence,
    make_strategy,
    moving_average,
    parse_strategy,
)


def evidence(
    description: list[float],
    question: list[float] | None = None,
    neighbours: list[float] | None = None,
    after: int = 0,
) -> Evidence:
    """Of one question; where nothing is said, no frame is like the question or its neighbour."""
    frames = len(description)
    return Evidence(
        description=torch.tensor([description]),
        question=torch.tensor([question or [0.0] * frames]),
        neighbours=torch.tensor(neighbours or [0.0] * (frames - 1)),
        direction=torch.tensor([after]),
    )


def drawn(frames: int, pairs: int, seed: int) -> Evidence:
    """As a clip of random frames and questions gives it."""
    generator = torch.Generator().manual_seed(seed)

    def vectors(count: int) -> Tensor:
        return torch.randn(count, 16, generator=generator)

    asked = ["what happens after that", "what happens before that", "what is that"]
    questions = [asked[i % 3] for i in range(pairs)]
    return gather_evidence(vectors(frames), vectors(pairs), vectors(pairs), questions)


def moments(strategy: Strategy, given: Evidence, k: int = 2) -> list[int]:
    return strategy.choose(given, k).moments[0].tolist()


def test_evidence_is_cosines_whatever_the_length_of_the_vectors() -> None:
    frames = torch.tensor([[3.0, 0.0], [0.0, 0.5], [1.0, 1.0]])
    given = gather_evidence(
        frames, torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 7.0]]), ["what before"]
    )
    half = 0.5**0.5
    torch.testing.assert_close(given.description, torch.tensor([[1.0, 0.0, half]]))
    torch.testing.assert_close(given.question, torch.tensor([[0.0, 1.0, half]]))
    torch.testing.assert_close(given.neighbours, torch.tensor([0.0, half]))
    assert given.direction.tolist() == [-1]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("what does the dog do after going to the cushion", 1),
        ("What happens right before the star pulses?", -1),
        ("why is the man on all fours", 0),
        ("what is the aftermath", 0),
        ("After sitting down, what happens before she leaves?", 1),
    ],
)
def test_direction(question: str, expected: int) -> None:
    assert direction(question) == expected


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_gives_rising_frames_and_its_row(name: str) -> None:
    strategy = make_strategy(name)
    for frames, pairs, k in ((32, 5, 4), (7, 3, 7), (2, 1, 1), (1, 2, 1)):
        given = drawn(frames, pairs, seed=frames)
        chosen = strategy.choose(given, k)
        assert chosen.moments.shape == (pairs, k)
        assert chosen.similarity.shape == (pairs, frames)
        assert chosen.similarity.isfinite().all()
        assert ((chosen.moments >= 0) & (chosen.moments < frames)).all()
        assert (chosen.moments.diff(dim=1) > 0).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_question_is_labelled_alike_alone_and_among_others(name: str) -> None:
    strategy, given = make_strategy(name), drawn(32, 6, seed=1)
    together = strategy.choose(given, 4)
    for i in range(6):
        alone = Evidence(
            given.description[i : i + 1],
            given.question[i : i + 1],
            given.neighbours,
            given.direction[i : i + 1],
        )
        assert moments(strategy, alone, 4) == together.moments[i].tolist()


@pytest.mark.parametrize("name", STRATEGIES)
def test_where_all_frames_are_alike_the_earlier_ones_are_taken(name: str) -> None:
    # The first 8 joins make frames 0-8 one segment; each segment has the same share.
    expected = [0, 9, 10] if name == "merge" else [0, 1, 2]
    assert moments(make_strategy(name), evidence([0.5] * 20), 3) == expected


def test_topk_takes_the_most_similar_and_of_equals_the_earlier() -> None:
    given = evidence([0.1, 0.4, 0.2, 0.4, 0.4])
    assert moments(TopK(), given) == [1, 3]
    assert make_strategy("soft").choose(given, 2).moments.tolist() == [[1, 3]]


def test_contrast_finds_what_the_answer_adds() -> None:
    """The question's event fills frames 0-3, the answer's 5 and 6; the description names both."""
    description = [0.60, 0.61, 0.62, 0.60, 0.10, 0.55, 0.54, 0.10]
    question = [0.70, 0.71, 0.72, 0.70, 0.10, 0.10, 0.10, 0.10]
    given = evidence(description, question)
    assert moments(TopK(), given) == [1, 2]
    assert moments(Contrast(), given) == [5, 6]
    assert moments(make_strategy("contrast", {"lambda": 0}), given) == [1, 2]
    row = make_strategy("contrast", {"lambda": 0.5}).choose(given, 2).similarity
    torch.testing.assert_close(row, given.description - 0.5 * given.question)


@pytest.mark.parametrize(("after", "expected"), [(1, [6, 7]), (-1, [1, 2]), (0, [1, 2])])
def test_order_looks_on_the_side_that_the_question_names(after: int, expected: list[int]) -> None:
    """Frames 1, 2 and 6, 7 are equally like the answer; the question's event is at 4."""
    description = [0.1, 0.5, 0.5, 0.1, 0.3, 0.1, 0.5, 0.5]
    question = [0.0, 0.0, 0.0, 0.0, 0.8, 0.0, 0.0, 0.0]
    assert moments(Order(), evidence(description, question, after=after)) == expected


def test_order_without_gain_or_direction_is_contrast() -> None:
    given = drawn(32, 6, seed=2)
    same = Order(gain=0).choose(given, 4)
    torch.testing.assert_close(same.similarity, Contrast().choose(given, 4).similarity)
    unsaid = given._replace(direction=torch.zeros_like(given.direction))
    torch.testing.assert_close(Order().row(unsaid), Contrast().row(given))


def test_order_adds_the_share_of_the_event_on_the_right_side() -> None:
    given = evidence([0.0] * 4, [0.1, 0.4, 0.2, 0.3], after=1)
    place = torch.softmax(given.question / 0.2, dim=1)
    strategy = make_strategy("order", {"lambda": 0, "gain": 2, "temperature": 0.2})
    torch.testing.assert_close(strategy.row(given), 2 * place.cumsum(dim=1))
    before = given._replace(direction=torch.tensor([-1]))
    torch.testing.assert_close(strategy.row(before), 2 * place.flip(1).cumsum(1).flip(1))


def test_merge_joins_the_most_alike_neighbours_first() -> None:
    neighbours = torch.tensor([0.9, 0.2, 0.8, 0.8, 0.1, 0.7])
    assert Merge(segments=7).segment_of_frame(neighbours).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert Merge(segments=6).segment_of_frame(neighbours).tolist() == [0, 0, 1, 2, 3, 4, 5]
    # Of the two 0.8 the earlier pair is joined first.
    assert Merge(segments=5).segment_of_frame(neighbours).tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert Merge(segments=3).segment_of_frame(neighbours).tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert Merge(segments=1).segment_of_frame(neighbours).tolist() == [0] * 7


def test_merge_prefers_a_segment_that_is_alike_throughout() -> None:
    """Frame 1 alone is the most similar, but its segment is not; the second segment is."""
    given = evidence([0.0, 0.9, 0.0, 0.6, 0.6, 0.6], neighbours=[0.9, 0.9, 0.1, 0.9, 0.9])
    assert moments(TopK(), given) == [1, 3]
    chosen = Merge(segments=2).choose(given, 2)
    assert chosen.moments.tolist() == [[3, 4]]
    torch.testing.assert_close(chosen.similarity, torch.tensor([[0.3, 0.3, 0.3, 0.6, 0.6, 0.6]]))
    # Hot enough, both segments get their share: each its most similar frame.
    assert moments(Merge(segments=2, temperature=10.0), given) == [1, 3]


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_merge_deals_keyframes_by_highest_averages(temperature: float) -> None:
    given, k = drawn(24, 4, seed=3), 6
    strategy = Merge(segments=5, temperature=temperature)
    segment = strategy.segment_of_frame(given.neighbours).tolist()
    chosen = strategy.choose(given, k)
    for i, similarity in enumerate(given.description.tolist()):
        members = [[t for t in range(24) if segment[t] == n] for n in range(5)]
        means = torch.tensor([sum(similarity[t] for t in m) / len(m) for m in members])
        shares = torch.softmax(means / temperature, dim=0).tolist()
        queues = [sorted(m, key=lambda t: -similarity[t]) for m in members]
        given_to, taken = [0] * 5, []
        for _ in range(k):
            open_ones = [n for n in range(5) if given_to[n] < len(queues[n])]
            best = max(open_ones, key=lambda n: shares[n] / (given_to[n] + 1))
            taken.append(queues[best][given_to[best]])
            given_to[best] += 1
        assert chosen.moments[i].tolist() == sorted(taken)


def test_steepness_finds_the_edges_of_an_event() -> None:
    """Similarity is 0.2 outside frames 4-9 and 0.8 inside: steep from 3 to 4 and from 9 to 10."""
    given = evidence([0.2] * 4 + [0.8] * 6 + [0.2] * 4)
    assert moments(Steepness(width=1), given, 4) == [3, 4, 9, 10]
    assert moments(Steepness(), given, 4) == [3, 4, 9, 10]
    row = Steepness(width=1).row(evidence([0.0, 0.2, 0.6, 0.6]))
    torch.testing.assert_close(row, torch.tensor([[0.2, 0.3, 0.2, 0.0]]))


def test_moving_average_goes_on_at_the_ends() -> None:
    averaged = moving_average(torch.tensor([[0.0, 3.0, 6.0, 0.0]]), 3)
    torch.testing.assert_close(averaged, torch.tensor([[1.0, 3.0, 3.0, 2.0]]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("topk", []),
        ("contrast:lambda=0.7", ["contrast:lambda=0.7"]),
        ("merge: segments=8 , temperature=0.1", ["segments=8", "temperature=0.1"]),
        ("contrast:lambda=0.4", []),
    ],
)
def test_a_strategy_is_spelled_as_it_is_read(text: str, expected: list[str]) -> None:
    strategy = parse_strategy(text)
    assert all(part in strategy.spelled for part in expected)
    assert parse_strategy(strategy.spelled) == strategy
    if not expected:
        assert strategy.spelled == strategy.name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steep", "steep: unknown; choose one of topk, soft, merge"),
        ("contrast:lamda=1", "lamda = 1: no such option; its options and their defaults: lambda"),
        ("contrast:lambda=-1", "lambda = -1: Input should be greater than or equal to 0"),
        ("contrast:lambda=much", "lambda = much"),
        ("contrast:lambda=nan", "lambda = nan"),
        ("contrast:lambda", "write NAME:KEY=VALUE"),
        ("contrast:lambda=1,lambda=2", "given twice"),
        ("merge:segments=0", "segments = 0"),
        ("steepness:width=4", "must be odd"),
        ("topk:width=3", "their defaults: none"),
        ("", "unknown"),
    ],
)
def test_what_is_no_strategy_is_one_clear_line(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_strategy(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
