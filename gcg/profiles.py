"""The profiles: what the paper says, what the authors released, and ours, as objects to call.

Every row of the table in docs/method.md is a field here; the model asks the object, never the name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from gcg.config import GCGConfig
from gcg.contrast import Candidates, FrameContrast, HeadContrast, NoContrast, Pairs
from gcg.gaussian import ClosedTimeline, StepTimeline, Timeline
from gcg.generator import FrameScorer, GaussianGenerator, MomentEncoder
from gcg.losses import OrderedRegression, PointRegression, Regression, SoftRegression

Contrast = Callable[[Pairs, Candidates], Tensor]


@dataclass(frozen=True)
class Profile:
    """How one profile differs from another.

    ``timeline`` and ``sigma``: the grid and the width of the Gaussians. ``generator`` makes what
    locates the moments, for a joint width D_C. ``pooled_texts``: it reads the pooled question and
    options instead of the question's words.
    ``diagonal_gradient``: of the perturbed top-K. ``spatial_tokens``: N_C more tokens of all
    patches of the video go to the LLM. ``contrast``: makes the contrastive loss for a joint width
    D_C; a module where it has weights.
    """

    timeline: Timeline
    sigma: float
    generator: Callable[[int], MomentEncoder]
    pooled_texts: bool
    diagonal_gradient: bool
    spatial_tokens: bool
    regression: Regression
    contrast: Callable[[int], Contrast]


def resolve_profile(config: GCGConfig) -> Profile:
    """The profile that ``model.profile`` names, with the values of the configuration."""
    return _PROFILES[config.profile](config)


def _paper(config: GCGConfig) -> Profile:
    loss, timeline = config.loss, StepTimeline()

    def generator(joint_width: int) -> MomentEncoder:
        return GaussianGenerator(
            config.grounding,
            joint_width,
            config.num_frames,
            config.num_moments,
            timeline=timeline,
            sigma=config.grounding.sigma,
        )

    return Profile(
        timeline=timeline,
        sigma=config.grounding.sigma,
        generator=generator,
        pooled_texts=False,
        diagonal_gradient=False,
        spatial_tokens=False,
        regression=_target(config, PointRegression(timeline, loss.reg_beta)),
        contrast=lambda _: FrameContrast(loss.temperature, loss.num_intra, loss.num_inter),
    )


def _released(config: GCGConfig) -> Profile:
    grounding, timeline = config.grounding, ClosedTimeline()
    sigma = max(grounding.gaussian_width, 0.01) / 9

    def generator(joint_width: int) -> MomentEncoder:
        return GaussianGenerator(
            grounding,
            joint_width,
            config.num_frames,
            config.num_moments,
            timeline=timeline,
            sigma=sigma,
            scale_inputs=False,
            reposition=True,
        )

    def head(joint_width: int) -> Contrast:
        width = (grounding.width or joint_width // 4) // 2
        return HeadContrast(
            joint_width,
            width,
            temperature=config.loss.temperature,
            noise_samples=grounding.noise_samples,
            noise_scale=grounding.noise_scale,
            dropout=grounding.dropout,
        )

    return Profile(
        timeline=timeline,
        sigma=sigma,
        generator=generator,
        pooled_texts=True,
        diagonal_gradient=True,
        spatial_tokens=True,
        regression=_target(config, OrderedRegression(config.loss.reg_beta)),
        contrast=head,
    )


def _plus(config: GCGConfig) -> Profile:
    """Ours: a score a frame, fitted to the whole similarity row of the labels (best: strategy
    ``order``); no contrastive loss."""

    def generator(joint_width: int) -> MomentEncoder:
        return FrameScorer(config.grounding, joint_width, config.num_frames)

    return replace(
        _paper(config),
        generator=generator,
        regression=SoftRegression(temperature=0.5, standardise=True),
        contrast=lambda _: NoContrast(),
    )


def _target(config: GCGConfig, points: Regression) -> Regression:
    soft = config.loss.target == "soft"
    return SoftRegression(config.loss.soft_temperature) if soft else points


_PROFILES: dict[str, Callable[[GCGConfig], Profile]] = {
    "paper": _paper,
    "released": _released,
    "plus": _plus,
}
