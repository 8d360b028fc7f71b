"""What a GCG model is made of: one frozen tree, checked before anything is built.

The defaults are the paper's where it states a value (see ``docs/method.md``); a run file overrides
them under ``model:``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Mode = Literal["grounding", "uniform", "oracle"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GroundingConfig(_Frozen):
    """Gaussian generator and perturbed selection (steps 4-6)."""

    sigma: float = Field(
        default=0.05, gt=0, description="width of each Gaussian on the [0, 1] time axis"
    )
    width: int | None = Field(default=None, gt=0, description="D_G; None is D_C / 4")
    num_layers: int = Field(default=2, ge=1)
    num_heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    question_similarity: bool = Field(
        default=False,
        description="ours, not the paper's: tell the generator how like the question a frame is",
    )
    noise_samples: int = Field(default=500, ge=1, description="n draws of the perturbed top-K")
    noise_scale: float = Field(default=0.05, gt=0, description="standard deviation of those draws")


class LossConfig(_Frozen):
    """L = L_vqa + alpha_reg * L_reg + alpha_con * L_con (steps 7, 8 and 10)."""

    alpha_reg: float = Field(default=1.0, ge=0)
    alpha_con: float = Field(default=1.0, ge=0)
    reg_beta: float = Field(
        default=1.0, gt=0, description="SmoothL1 turns linear beyond this distance"
    )
    temperature: float = Field(default=0.1, gt=0, description="tau of the contrastive loss")
    num_intra: int = Field(
        default=8, ge=0, description="negatives: unlikeliest frames of the video"
    )
    num_inter: int = Field(
        default=8, ge=0, description="negatives: frames of the group's other videos"
    )


class LLMConfig(_Frozen):
    """How the language model is asked and whether it learns (step 9)."""

    train: bool = Field(default=False, description="False: frozen, as in the paper")
    prompt: str = Field(
        default="Question: {question} Short answer:", description="{question}, {options}"
    )
    max_prompt_tokens: int = Field(default=128, ge=1)
    max_answer_tokens: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _names_the_question(self) -> LLMConfig:
        if "{question}" not in self.prompt:
            raise ValueError("the prompt must contain {question}")
        return self


class GCGConfig(_Frozen):
    """One GCG model. ``preset`` names the frozen encoders, the Q-Former and the LLM."""

    preset: Literal["tiny"] = "tiny"
    profile: Literal["paper"] = "paper"
    mode: Mode = "grounding"
    num_frames: int = Field(default=32, ge=1, description="T, frames sampled uniformly from a clip")
    num_moments: int = Field(default=4, ge=1, description="K, frames handed to the LLM")
    grounding: GroundingConfig = GroundingConfig()
    loss: LossConfig = LossConfig()
    llm: LLMConfig = LLMConfig()

    @model_validator(mode="after")
    def _moments_fit_frames(self) -> GCGConfig:
        if self.num_moments > self.num_frames:
            raise ValueError(
                f"num_moments (K) is {self.num_moments} but a clip has num_frames (T) = "
                f"{self.num_frames} frames; choose K <= T"
            )
        return self
