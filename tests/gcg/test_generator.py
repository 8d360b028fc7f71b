from __future__ import annotations

import pytest
import torch

from gcg.config import GroundingConfig
from gcg.generator import (
    GaussianGenerator,
    sinusoidal_table,
    standardised_similarity,
    table_scale,
)

P, T, L, C, K = 3, 10, 6, 32, 4


def generator(**changes) -> GaussianGenerator:
    torch.manual_seed(0)
    return GaussianGenerator(GroundingConfig(width=16, **changes), C, T, K).eval()


def case() -> tuple[torch.Tensor, ...]:
    torch.manual_seed(1)
    mask = torch.ones(P, L, dtype=torch.int64)
    mask[0, 4:] = 0
    return torch.randn(P, T, C), torch.randn(P, L, C), mask, torch.randn(P, C)


@pytest.mark.parametrize("similarity", [False, True])
def test_centres_lie_between_zero_and_one(similarity: bool) -> None:
    centers = generator(question_similarity=similarity)(*case())
    assert centers.shape == (P, K)
    assert centers.dtype == torch.float32
    assert ((centers > 0) & (centers < 1)).all()


def test_padding_is_not_read() -> None:
    frames, tokens, mask, question = case()
    changed = tokens.masked_fill(mask.unsqueeze(-1) == 0, 100.0)
    model = generator()
    assert torch.equal(
        model(frames, tokens, mask, question)[0], model(frames, changed, mask, question)[0]
    )


def test_order_of_frames_matters() -> None:
    frames, tokens, mask, question = case()
    model = generator()
    forward, backward = (
        model(frames, tokens, mask, question),
        model(frames.flip(1), tokens, mask, question),
    )
    assert not torch.allclose(forward, backward)


def test_pooled_question_counts_only_when_asked_for() -> None:
    frames, tokens, mask, question = case()
    for similarity in (False, True):
        model = generator(question_similarity=similarity)
        one, other = (model(frames, tokens, mask, q) for q in (question, question.flip(0)))
        assert torch.equal(one, other) != similarity


def test_length_of_the_embeddings_does_not_matter() -> None:
    frames, tokens, mask, question = case()
    model = generator(question_similarity=True)
    torch.testing.assert_close(
        model(frames, tokens, mask, question), model(9 * frames, tokens / 7, mask, 2 * question)
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
