from __future__ import annotations

import pytest
import torch

from gcg.config import GroundingConfig
from gcg.gaussian import StepTimeline
from gcg.generator import (
    FrameScorer,
    GaussianGenerator,
    sinusoidal_table,
    standardised_similarity,
    table_scale,
)
from gcg.losses import Labels, SoftRegression

P, T, L, C, K = 3, 10, 6, 32, 4


def generator(**changes) -> GaussianGenerator:
    torch.manual_seed(0)
    config = GroundingConfig(width=16, **changes)
    return GaussianGenerator(config, C, T, K, timeline=StepTimeline(), sigma=0.05).eval()


def case() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    mask = torch.ones(P, L, dtype=torch.int64)
    mask[0, 4:] = 0
    return torch.randn(P, T, C), torch.randn(P, L, C), mask, torch.randn(P, C)


@pytest.mark.parametrize("similarity", [False, True])
def test_centres_lie_between_zero_and_one(similarity: bool) -> None:
    centers = generator(question_similarity=similarity)(*case()).centers
    assert centers.shape == (P, K)
    assert centers.dtype == torch.float32
    assert ((centers > 0) & (centers < 1)).all()


def test_padding_is_not_read() -> None:
    frames, tokens, mask, question = case()
    changed = tokens.masked_fill(mask.unsqueeze(-1) == 0, 100.0)
    model = generator()
    one, other = (model(frames, x, mask, question).centers for x in (tokens, changed))
    assert torch.equal(one[0], other[0])


def test_order_of_frames_matters() -> None:
    frames, tokens, mask, question = case()
    model = generator()
    forward, backward = (
        model(frames, tokens, mask, question).centers,
        model(frames.flip(1), tokens, mask, question).centers,
    )
    assert not torch.allclose(forward, backward)


def test_pooled_question_counts_only_when_asked_for() -> None:
    frames, tokens, mask, question = case()
    for similarity in (False, True):
        model = generator(question_similarity=similarity)
        one, other = (model(frames, tokens, mask, q).centers for q in (question, question.flip(0)))
        assert torch.equal(one, other) != similarity


def test_length_of_the_embeddings_does_not_matter() -> None:
    frames, tokens, mask, question = case()
    model = generator(question_similarity=True)
    torch.testing.assert_close(
        model(frames, tokens, mask, question).centers,
        model(9 * frames, tokens / 7, mask, 2 * question).centers,
    )


def test_inputs_have_the_tables_magnitude() -> None:
    scaled = table_scale(1e-3 * torch.randn(50, C))
    assert scaled.square().mean().item() == pytest.approx(1.0, rel=1e-4)
    assert 0.3 < sinusoidal_table(T, 16).square().mean().item() <= 1.0


def test_similarity_is_standardised_over_time_and_survives_still_clips() -> None:
    frames, _, _, question = case()
    likeness = standardised_similarity(frames, question)
    torch.testing.assert_close(likeness.mean(1), torch.zeros(P), atol=1e-5, rtol=0)
    torch.testing.assert_close(likeness.square().mean(1), torch.ones(P))
    still = standardised_similarity(frames[:, :1].expand(-1, T, -1), question)
    assert still.abs().max() < 1.0


def test_the_table_is_the_transformers() -> None:
    table = sinusoidal_table(5, 8)
    assert table[0].tolist() == [0, 1] * 4
    assert table[3, 2].item() == pytest.approx(torch.sin(torch.tensor(3 / 10.0)).item(), abs=1e-6)


def scorer() -> FrameScorer:
    torch.manual_seed(0)
    return FrameScorer(GroundingConfig(width=16), C, T).eval()


def test_frame_scores_begin_as_the_similarity_to_the_question() -> None:
    frames, tokens, mask, question = case()
    found = scorer()(frames, tokens, mask, question)
    assert found.centers.shape == (P, 0)
    likeness = standardised_similarity(frames, question)
    torch.testing.assert_close(
        found.log_weights, likeness - likeness.amax(1, keepdim=True), atol=1e-5, rtol=1e-5
    )


def test_frame_scores_learn_a_target_that_the_similarity_does_not_show() -> None:
    frames, tokens, mask, question = case()
    model = scorer()
    target = torch.zeros(P, T)
    target[:, 2] = 3.0
    labels = Labels(torch.full((P, 1), 2), target)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        log_weights = model(frames, tokens, mask, question).log_weights
        loss = SoftRegression(1.0, standardise=True)(torch.empty(P, 0), log_weights, labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert model(frames, tokens, mask, question).log_weights.argmax(1).tolist() == [2] * P
