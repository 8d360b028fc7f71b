"""A model as one uses it: from a folder or the hub, asked about clips, in another mode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from gcg.answers import Answers, ask
from gcg.config import Mode
from gcg.errors import ModelError

if TYPE_CHECKING:
    from gcg.model import GCGModel


class Served(nn.Module):
    """The part of :class:`gcg.model.GCGModel` that needs no training run."""

    @classmethod
    def from_pretrained(
        cls,
        place: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        checkpoint: str | None = None,
        clip_checkpoint: str | None = None,
        llm: str | None = None,
        text_encoder: str | None = None,
    ) -> GCGModel:
        """The model that `gcg export` wrote, in evaluation mode.

        Args:
            place: the folder, or the hub name that it was pushed to.
            dtype: of its weights; float32 is what they were trained in.
            device: where they go, one after the other.
            checkpoint: where ``model.checkpoint`` lies here, if the frozen parts are not in the
                folder (``--parts trained``) and not where they were; likewise the three others.
            clip_checkpoint: ``model.clip_checkpoint``.
            llm: ``model.llm.name``.
            text_encoder: ``model.features.text_encoder``.

        Raises:
            ModelError: it is no such folder, is damaged, or a frozen part is not to be had.
        """
        from gcg.pretrained import load_pretrained

        moved = {
            "checkpoint": checkpoint,
            "clip_checkpoint": clip_checkpoint,
            "llm": llm,
            "text_encoder": text_encoder,
        }
        return load_pretrained(place, dtype=dtype, device=device, moved=moved)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write all weights, as they are, and everything that :meth:`from_pretrained` and
        :class:`gcg.processor.GCGProcessor` need into a new folder.

        Raises:
            ModelError: the folder is there and not empty, or the weights are quantised.
        """
        from gcg.saving import save_pretrained, saving_of

        place = Path(folder)
        saving = saving_of(cast("GCGModel", self))
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise ModelError(f"{place}: is there already; give a new folder, or delete it")
        place.mkdir(parents=True, exist_ok=True)
        save_pretrained(saving, place)

    def answer(
        self,
        inputs: Mapping[str, Tensor | None],
        *,
        max_new_tokens: int | None = None,
        certainty: bool = False,
    ) -> Answers:
        """Ask; ``inputs`` are what :class:`gcg.processor.GCGProcessor` makes, on any device.

        Options that are there are scored. Without any, and where ``max_new_tokens`` is given, an
        answer is written; ``certainty`` says how sure the model is of it.
        """
        device = next(self.parameters()).device
        there = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        if max_new_tokens is None and there.get("option_ids") is None:
            max_new_tokens = cast(Any, self).config.llm.max_answer_tokens
        was_training = self.training
        self.eval()
        try:
            return ask(
                cast("GCGModel", self), there, max_new_tokens=max_new_tokens, certainty=certainty
            )
        finally:
            self.train(was_training)

    def in_mode(self, mode: Mode) -> GCGModel:
        """The same weights with another way to choose frames, to be asked, not trained; nothing is
        copied.

        Raises:
            ModelError: mode ``grounding`` of a model that was trained without.
        """
        from gcg.build import build_selector
        from gcg.dropout import install_sample_dropout
        from gcg.model import GCGModel

        model = cast("GCGModel", self)
        if mode == "grounding" and model.generator is None:
            raise ModelError(
                f"mode = grounding: this model was trained in mode {model.config.mode} and has "
                "learned no grounding; choose uniform or oracle"
            )
        config = model.config.model_copy(update={"mode": mode})
        other = GCGModel(
            config,
            model.profile,
            model.vision,
            model.text,
            model.generator if mode == "grounding" else None,
            None,
            build_selector(config),
            model.reader,
            model.answerer,
        )
        install_sample_dropout(model)  # whose modules the other's constructor took for its own
        return other.train(self.training)
