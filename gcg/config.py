"""What a GCG model is made of: one frozen tree, checked before anything is built.

The defaults are the paper's where it states a value (see ``docs/method.md``); a run file overrides
them under ``model:``.
"""

from __future__ import annotations

import string
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from gcg.section import Section

Mode = Literal["grounding", "uniform", "oracle"]
ProfileName = Literal["paper", "released", "plus"]


class GroundingConfig(Section):
    """Gaussian generator and perturbed selection (steps 4-6)."""

    sigma: float = Field(
        default=0.05, gt=0, description="profile paper: width of each Gaussian on the [0, 1] axis"
    )
    gaussian_width: float = Field(
        default=0.2, gt=0, description="profile released: sigma is this / 9, at least 0.01 / 9"
    )
    width: int | None = Field(default=None, ge=2, le=8192, description="D_G; None is D_C / 4")
    num_layers: int = Field(default=2, ge=1, le=256, description="of the generator's transformer")
    num_heads: int = Field(default=4, ge=1, le=1024, description="of the generator's transformer")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="in the generator")
    question_similarity: bool = Field(
        default=False,
        description="ours, not the paper's: tell the generator how like the question a frame is",
    )
    noise_samples: int = Field(
        default=500, ge=1, le=100_000, description="n draws of the perturbed top-K"
    )
    noise_scale: float = Field(default=0.05, gt=0, description="standard deviation of those draws")


class LossConfig(Section):
    """L = L_vqa + alpha_reg * L_reg + alpha_con * L_con (steps 7, 8 and 10)."""

    alpha_reg: float = Field(
        default=1.0, ge=0, description="weight of the regression to pseudo-labels"
    )
    alpha_con: float = Field(default=1.0, ge=0, description="weight of the contrastive loss")
    reg_beta: float = Field(
        default=1.0, gt=0, description="SmoothL1 turns linear beyond this distance"
    )
    target: Literal["moments", "soft"] = Field(
        default="moments", description="soft: KL to the labels' similarities instead of K points"
    )
    soft_temperature: float = Field(
        default=0.05, gt=0, description="of the soft target, softmax(similarity / temperature)"
    )
    temperature: float = Field(default=0.1, gt=0, description="tau of the contrastive loss")
    num_intra: int = Field(
        default=8, ge=0, le=10_000, description="negatives: unlikeliest frames of the video"
    )
    num_inter: int = Field(
        default=8, ge=0, le=10_000, description="negatives: frames of the group's other videos"
    )


class VisionConfig(Section):
    """The image encoder's pass (step 1)."""

    train: bool = Field(default=False, description="False: frozen, as the method has it")
    frames_per_pass: int | None = Field(
        default=None, ge=1, description="frames through the trunk at a time; None: all of a batch"
    )


class FeaturesConfig(Section):
    """What frames are where they come as features, not as pixels (``input: features``).

    The defaults are features that `gcg extract` makes: the preset's own sizes and text tower.
    """

    tokens: int | None = Field(default=None, ge=1, le=65_536, description="L, vectors of a frame")
    width: int | None = Field(
        default=None, ge=1, le=65_536, description="D_I of each; None: the preset's"
    )
    embedding_width: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="D_C, what frames and texts are compared by; as width",
    )
    text_encoder: str | None = Field(
        default=None,
        description="hub name or folder of a BERT-like sentence encoder of that width, in place of "
        "the preset's text tower",
    )


class LoRAConfig(Section):
    """Low-rank adapters on the LLM's linear layers, where ``llm.train`` is ``lora``."""

    rank: int = Field(default=16, ge=1, le=16_384, description="of each adapter")
    alpha: float = Field(default=32.0, gt=0, description="adapters are scaled by alpha / rank")
    dropout: float = Field(default=0.05, ge=0, lt=1, description="before each adapter")
    targets: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        default=None,
        min_length=1,
        description="module name endings; None: every linear layer but the head",
    )


class LLMConfig(Section):
    """Which language model, how it is asked and whether it learns (step 9)."""

    name: str | None = Field(
        default=None, description="hub name or folder; None: the LLM of the preset's checkpoint"
    )
    train: Literal["frozen", "lora", "full"] = Field(
        default="frozen", description="frozen: as in the paper (false); full: all of it (true)"
    )
    lora: LoRAConfig = LoRAConfig()
    quantize: Literal["none", "nf4"] = Field(
        default="none", description="nf4: 4-bit weights, needs a GPU and bitsandbytes"
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        default="auto", description="implementation; auto: what transformers chooses"
    )
    liger: bool = Field(default=False, description="Liger kernels; needs a GPU and the package")
    chat: Literal["auto", "never"] = Field(
        default="auto", description="auto: the tokenizer's chat template where it has one"
    )
    system: str | None = Field(default=None, description="system message of the chat template")
    prompt: str = Field(
        default="Question: {question} Short answer:", description="{question}, {options}"
    )
    max_prompt_tokens: int = Field(
        default=128, ge=1, le=1_000_000, description="longer questions are cut"
    )
    max_answer_tokens: int = Field(
        default=32, ge=1, le=1_000_000, description="of an answer, learned or written"
    )

    @field_validator("train", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        return {True: "full", False: "frozen"}[value] if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _fits_together(self) -> LLMConfig:
        try:
            fields = [
                field[1:] for field in string.Formatter().parse(self.prompt) if field[1] is not None
            ]
        except ValueError as error:
            raise ValueError(
                f"the prompt is not a template: {error}; a brace that is meant is written twice"
            ) from None
        names = {name for name, _, _ in fields}
        if "question" not in names:
            raise ValueError("the prompt must contain {question}; add it")
        if names - {"question", "options"} or any(form or mark for _, form, mark in fields):
            raise ValueError(
                "the prompt may use {question} and {options} alone; a brace that is meant is "
                "written twice"
            )
        if self.quantize != "none" and self.train == "full":
            raise ValueError(
                "quantize: 4-bit weights cannot be trained in full; use train=lora or frozen"
            )
        return self


class GCGConfig(Section):
    """One GCG model. ``preset`` names the frozen encoders, the Q-Former and the LLM."""

    preset: Literal["tiny", "instructblip"] = Field(
        default="tiny", description="sizes and kinds of encoders, Q-Former and LLM"
    )
    checkpoint: str | None = Field(
        default=None, description="instructblip: hub name or folder of the InstructBLIP weights"
    )
    clip_checkpoint: str = Field(
        default="timm/eva_giant_patch14_clip_224.laion400m_s11b_b41k",
        description="instructblip: hub name, folder or file of EVA01-g-14 (open_clip)",
    )
    profile: ProfileName = Field(
        default="paper", description="the method as published, as released, or ours"
    )
    mode: Mode = Field(
        default="grounding", description="which frames are answered from; oracle: the pseudo-labels"
    )
    num_frames: int = Field(
        default=32, ge=1, le=8192, description="T, frames sampled uniformly from a clip"
    )
    num_moments: int = Field(default=4, ge=1, description="K, frames handed to the LLM")
    input: Literal["video", "features"] = Field(
        default="video", description="features: frames come encoded, and there is no image encoder"
    )
    features: FeaturesConfig = FeaturesConfig()
    vision: VisionConfig = VisionConfig()
    grounding: GroundingConfig = GroundingConfig()
    loss: LossConfig = LossConfig()
    llm: LLMConfig = LLMConfig()

    def reading_video(self) -> GCGConfig:
        """The model with its own encoders, whose features this one may read."""
        return self.model_copy(update={"input": "video", "features": FeaturesConfig()})

    def served(self) -> GCGConfig:
        """The model as it is used on clips: where its features came from its own encoders, with
        them."""
        own = self.input == "features" and self.features == FeaturesConfig()
        return self.reading_video() if own else self

    @model_validator(mode="after")
    def _fits_together(self) -> GCGConfig:
        if self.num_moments > self.num_frames:
            raise ValueError(
                f"num_moments (K) is {self.num_moments} but a clip has num_frames (T) = "
                f"{self.num_frames} frames; choose K <= T"
            )
        if self.input == "features" and self.vision.train:
            raise ValueError(
                "input is features, made by an image encoder that stays as it is; use "
                "input=video to train it, or vision.train=false"
            )
        if self.input == "video" and self.features != FeaturesConfig():
            raise ValueError(
                "input is video and reads no features; set input=features, or drop them"
            )
        if self.preset == "tiny" and self.checkpoint is not None:
            raise ValueError(
                "checkpoint is read with preset instructblip alone; set model.preset=instructblip, "
                "or take it out"
            )
        if self.preset == "instructblip" and self.checkpoint is None:
            raise ValueError(
                "checkpoint is needed by preset instructblip; give a hub name such as "
                "Salesforce/instructblip-flan-t5-xl, or a folder"
            )
        return self
