from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from gcg.contrast import (
    Candidates,
    FrameContrast,
    HeadContrast,
    Pairs,
    candidate_priorities,
)

P, V, T, K, C, OPTIONS = 5, 3, 8, 2, 6, 4


def case(groups: tuple[int, ...] = (0, 0, 0)) -> tuple[Pairs, Candidates]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    index = torch.arange(P) % V
    frames, answer, group = draw(V, T, C), draw(P, C), torch.tensor(groups)
    seeds, numbers = torch.arange(100, 100 + P), torch.arange(V)
    pairs = Pairs(
        joint=frames[index],
        positive=draw(P, K, C),
        weights=torch.rand(P, T, generator=generator),
        group=group[index],
        position=index,
        seeds=seeds,
        description=draw(P, C),
        answer=answer,
        options=draw(P, OPTIONS, C),
        wrong=torch.arange(OPTIONS) != torch.tensor([0, 1, 2, 3, 0])[:, None],
    )
    return pairs, Candidates(frames, group, numbers, answer, index, seeds)


def head(dropout: float = 0.0) -> HeadContrast:
    torch.manual_seed(3)
    return HeadContrast(C, 5, temperature=0.1, noise_samples=20, noise_scale=0.05, dropout=dropout)


def test_frames_equal_equation_seven_term_by_term() -> None:
    pairs, candidates = case()
    loss = FrameContrast(0.1, num_intra=3, num_inter=5)(pairs, candidates)
    d, c_pos, c = (
        F.normalize(x, dim=-1) for x in (pairs.description, pairs.positive, candidates.joint)
    )
    flat = c.flatten(0, 1)
    others = (pairs.position[:, None] != torch.arange(V)).repeat_interleave(T, 1)
    chosen = candidate_priorities(others, pairs.seeds).topk(5).indices
    for pair in range(P):
        video = int(pairs.position[pair])
        lowest = pairs.weights[pair].argsort()[:3]
        negatives = sum(math.exp(float(d[pair] @ c[video, i]) / 0.1) for i in lowest)
        negatives += sum(math.exp(float(d[pair] @ flat[i]) / 0.1) for i in chosen[pair])
        terms = []
        for k in range(K):
            right = math.exp(float(d[pair] @ c_pos[pair, k]) / 0.1)
            terms.append(-math.log(right / (right + negatives)))
        assert float(loss[pair]) == pytest.approx(sum(terms) / K, rel=1e-4)


def test_head_equals_the_table_term_by_term() -> None:
    """The released row of method.md with hard indicators, written out in plain loops."""
    pairs, candidates = case(groups=(0, 0, 1))
    module = head().eval().requires_grad_(False)
    loss = module(pairs, candidates)

    def project(x: torch.Tensor) -> torch.Tensor:
        return F.normalize(module.outer(F.gelu(module.inner(x))), dim=-1)

    assert pairs.answer is not None
    assert pairs.options is not None
    assert pairs.wrong is not None
    for pair in range(P):
        answer = project(pairs.answer[pair])
        left_out = pairs.weights[pair].argsort()[: T - K]
        intra = [float(answer @ project(pairs.joint[pair, t])) for t in left_out]
        terms = []
        for k in range(K):
            positive = project(pairs.positive[pair, k])
            logits = [float(positive @ answer), *intra]
            logits += [
                float(positive @ project(option))
                for option, wrong in zip(pairs.options[pair], pairs.wrong[pair], strict=True)
                if wrong
            ]
            logits += [
                float(positive @ project(pairs.answer[other]))
                for other in range(P)
                if pairs.group[other] == pairs.group[pair]
                and pairs.position[other] != pairs.position[pair]
            ]
            scaled = torch.tensor(logits) / 0.1
            terms.append(-float(scaled.log_softmax(0)[0]))
        assert float(loss[pair]) == pytest.approx(sum(terms) / K, rel=1e-4)


def test_an_answer_is_dropped_alike_as_own_and_as_negative() -> None:
    """Else the loss would depend on which rank holds which pair."""
    module = head(dropout=0.5).train()
    vectors, seeds = torch.randn(2, 3, C), torch.tensor([4, 9])
    both = module._project(vectors, seeds)
    second_alone = module._project(vectors[1:, :1], seeds[1:])
    torch.testing.assert_close(both[1:, :1], second_alone)
    assert not torch.allclose(both[0], module.eval()._project(vectors, seeds)[0])


def test_training_reaches_the_weights_through_the_soft_negatives() -> None:
    pairs, candidates = case()
    weights = pairs.weights.clone().requires_grad_()
    module = head().train()
    module(pairs._replace(weights=weights), candidates).sum().backward()
    assert weights.grad is not None
    assert weights.grad.abs().sum() > 0


def test_open_ended_pairs_have_no_option_negatives() -> None:
    pairs, candidates = case()
    module = head().eval()
    nobody = torch.zeros(P, OPTIONS, dtype=torch.bool)
    masked = module(pairs._replace(wrong=nobody), candidates)
    torch.testing.assert_close(masked, module(pairs._replace(options=None), candidates))


def test_released_contrast_without_answers_says_so() -> None:
    pairs, candidates = case()
    with pytest.raises(ValueError, match="no answer texts"):
        head()(pairs._replace(answer=None), candidates)


def test_inter_negatives_never_come_from_the_own_video_or_another_group() -> None:
    allowed = torch.tensor([[True, True, False, True, False, True]])
    priority = candidate_priorities(allowed, torch.tensor([7]))
    assert (priority[~allowed] == -1).all()
    assert (priority[allowed] >= 0).all()


def test_negatives_do_not_depend_on_what_else_is_in_the_micro_batch() -> None:
    alone = torch.tensor([[True, False, True, True]])
    among = torch.tensor([[False, False, True, False, True, True, False, False]])
    seeds = torch.tensor([11])
    small, large = candidate_priorities(alone, seeds), candidate_priorities(among, seeds)
    torch.testing.assert_close(small[alone], large[among])


def test_alone_in_its_group_a_video_has_only_intra_negatives() -> None:
    pairs, candidates = case(groups=(0, 1, 2))
    loss = FrameContrast(0.1, num_intra=3, num_inter=5)(pairs, candidates)
    intra_only = FrameContrast(0.1, num_intra=3, num_inter=0)(*case())
    torch.testing.assert_close(loss, intra_only)


def test_gradients_are_finite_without_any_negative() -> None:
    pairs, candidates = case(groups=(0, 1, 2))
    positive = pairs.positive.clone().requires_grad_()
    contrast = FrameContrast(0.1, num_intra=0, num_inter=4)
    loss = contrast(pairs._replace(positive=positive), candidates)
    loss.sum().backward()
    assert loss.abs().max() < 1e-6
    assert positive.grad is not None
    assert positive.grad.isfinite().all()
