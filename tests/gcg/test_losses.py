from __future__ import annotations

import pytest
import torch

from gcg.gaussian import ClosedTimeline, StepTimeline
from gcg.losses import Labels, OrderedRegression, PointRegression, SoftRegression


def test_points_are_the_sum_of_smooth_l1_to_frame_positions() -> None:
    centers = torch.tensor([[0.10, 0.90]])
    moments = torch.tensor([[0, 3]])  # positions 1/4 and 4/4
    beta = 0.12
    expected = (0.15 - beta / 2) + 0.5 * 0.1**2 / beta
    loss = PointRegression(StepTimeline(), beta)(centers, torch.zeros(1, 4), Labels(moments, None))
    torch.testing.assert_close(loss, torch.tensor([expected]))


def test_ordered_regression_is_in_frames_and_adds_the_hinge() -> None:
    # T = 11: frames are mu * 10. Centres at 2.0, 2.5 and 9.0; labels 2, 4 and 9.
    centers = torch.tensor([[0.20, 0.25, 0.90]])
    loss = OrderedRegression(beta=1.0)(
        centers, torch.zeros(1, 11), Labels(torch.tensor([[2, 4, 9]]), None)
    )
    points = (0 + (1.5 - 0.5) + 0) / 3
    hinge = ((1 + 2.0 - 2.5) + 0) / 2
    torch.testing.assert_close(loss, torch.tensor([points + hinge]))


def test_one_moment_has_no_order() -> None:
    loss = OrderedRegression(beta=1.0)(
        torch.tensor([[0.5]]), torch.zeros(1, 11), Labels(torch.tensor([[5]]), None)
    )
    assert loss.tolist() == [0.0]


def test_soft_regression_is_the_divergence_and_zero_at_the_target() -> None:
    similarity = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    log_p = similarity / 0.1 + 3.0  # any constant: p is normalised
    regression = SoftRegression(temperature=0.1)
    labels = Labels(torch.tensor([[1]]), similarity)
    assert float(regression(torch.zeros(1, 1), log_p, labels)) == pytest.approx(0, abs=1e-6)
    target = torch.softmax(similarity / 0.1, 1)
    expected = (target * (target / 0.25).log()).sum()
    flat = regression(torch.zeros(1, 1), torch.zeros(1, 4), labels)
    torch.testing.assert_close(flat, expected.reshape(1))


def test_soft_regression_without_similarities_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"gcg label"):
        SoftRegression(0.1)(torch.zeros(1, 1), torch.zeros(1, 4), Labels(torch.tensor([[1]]), None))


@pytest.mark.parametrize("timeline", [StepTimeline(), ClosedTimeline()])
def test_a_centre_on_its_label_costs_nothing(timeline: StepTimeline | ClosedTimeline) -> None:
    moments = torch.tensor([[0, 3, 7]])
    regression = PointRegression(timeline, 1.0)
    loss = regression(timeline.of_frames(moments, 8), torch.zeros(1, 8), Labels(moments, None))
    assert loss.tolist() == [0.0]
