"""A training pass makes the host wait for nothing: on the meta device, whose values nobody can
read, it would fail."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gcg.answering import build_answerer
from gcg.build import build_model
from gcg.host import HOST_INPUTS
from tests.gcg.llms import WIDTH, small_llm
from tests.gcg.test_model import config, inputs


class Transfers(TorchDispatchMode):
    """Counts the copies between devices that the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func._schema.name in ("aten::_to_copy", "aten::copy_"):
            source = args[0] if "to_copy" in str(func) else args[1]
            goal = result if isinstance(result, Tensor) else args[0]
            if source.device != goal.device and not kwargs.get("non_blocking"):
                self.waited.append(f"{func}: {source.device} to {goal.device}")
        return result


def released(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    texts = batch["question_ids"].unsqueeze(1).expand(-1, 3, -1)
    mask = batch["question_mask"].unsqueeze(1).expand(-1, 3, -1)
    return {
        "option_text_ids": texts,
        "option_text_mask": mask,
        "answer_text_ids": batch["question_ids"],
        "answer_text_mask": batch["question_mask"],
        "answer_index": torch.zeros(len(texts), dtype=torch.int64),
    }


@pytest.mark.parametrize("profile", ["paper", "released", "plus"])
@pytest.mark.parametrize("mode", ["grounding", "uniform", "oracle"])
def test_forward_and_backward_never_wait(profile: str, mode: str) -> None:
    model = build_model(
        config(mode, profile=profile, grounding={"noise_samples": 20, "dropout": 0.1})
    ).to("meta")
    batch = inputs()
    batch |= released(batch)
    batch["similarity"] = torch.zeros(5, 8)
    given = {n: x if n in HOST_INPUTS else x.to("meta") for n, x in batch.items()}
    with Transfers() as transfers:
        output = model(**given)
        (output.loss_vqa + output.loss_reg + output.loss_con).sum().backward()
    assert transfers.waited == []


def test_reading_a_device_is_noticed() -> None:
    """The check can fail: an index that lies on the device is one that must be waited for."""
    model, batch = build_model(config()).to("meta"), inputs()
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        model(**{name: x.to("meta") for name, x in batch.items()})
    with Transfers() as transfers:
        torch.zeros(3).to("meta")
    assert transfers.waited


# Not Llama and its like: rotary embeddings switch the device's autocast off, and meta has none.
@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_no_language_model_waits(name: str) -> None:
    answerer = build_answerer(small_llm(name), (7, 8), (1,)).to("meta")
    prompt_mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    ids = torch.ones(2, 4, dtype=torch.int64, device="meta")
    soft = torch.zeros(2, 3, WIDTH, device="meta", requires_grad=True)
    with Transfers() as transfers:
        answerer.loss(soft, ids, prompt_mask, ids).sum().backward()
    assert transfers.waited == []
