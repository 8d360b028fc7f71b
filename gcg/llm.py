"""The language model: any Hugging Face one, frozen, with adapters, or trained in full (step 9).

Here it is built from its configuration, with random weights or none (on the meta device); real
weights are loaded by name afterwards. ``plain_name`` is the bridge: adapters wrap a linear layer,
which puts ``base_layer`` into the names of its weights.
"""

from __future__ import annotations

import copy
import hashlib
import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PretrainedConfig

from gcg.config import GCGConfig, LLMConfig, LoRAConfig
from gcg.errors import ModelError

_ADAPTER_PARTS = (".lora_A.", ".lora_B.")
_WRAPPED = ".base_layer."


def is_encoder_decoder(llm_config: PretrainedConfig) -> bool:
    """Whether an LLM reads with an encoder (T5) rather than continues its prompt (Llama)."""
    return bool(llm_config.is_encoder_decoder)


def build_llm(config: GCGConfig, llm_config: PretrainedConfig, seed: int = 0) -> nn.Module:
    """The LLM of ``config`` with random weights, ``requires_grad`` set as ``llm.train`` says.

    Works where parameters are made on the meta device: nothing is drawn then, not for adapters
    either (see :func:`adapter_value`). With ``llm.quantize`` its weights are loaded as well, since
    they are quantised on their way in. Adapters are drawn from ``seed`` and their names.

    Raises:
        ModelError: this LLM cannot do what ``model.llm`` asks for.
    """
    options = config.llm
    if options.quantize == "nf4" and not _on_meta():
        llm = _load_4bit(options)
    else:
        llm = _from_config(options, llm_config)
    if options.liger:
        _use_liger(llm)
    llm.requires_grad_(options.train == "full")
    if options.train == "lora":
        _add_adapters(llm, options.lora)
        _draw_adapters(llm, seed)
    return llm


def plain_name(name: str) -> str:
    """The name that a parameter has, or would have, without adapters."""
    return name.replace(_WRAPPED, ".")


def is_adapter(name: str) -> bool:
    """Whether a parameter, named anywhere in a model, belongs to an adapter."""
    return any(part in name for part in _ADAPTER_PARTS)


def adapter_value(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """First value of an adapter's weight, float32: A (rank, in) uniform, B (out, rank) zero.

    As peft draws it (Kaiming, a = √5), but from (seed, name), ``name`` being the parameter's inside
    the LLM: the same on every rank, whichever part of the model that rank builds.
    """
    if ".lora_B." in name:
        return torch.zeros(shape)
    digest = hashlib.blake2b(f"{seed}/llm/{name}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    bound = 1 / math.sqrt(shape[1])
    return torch.empty(shape, device="cpu").uniform_(-bound, bound, generator=generator)


def _from_config(options: LLMConfig, llm_config: PretrainedConfig) -> Any:
    auto = AutoModelForSeq2SeqLM if is_encoder_decoder(llm_config) else AutoModelForCausalLM
    attention = None if options.attention == "auto" else options.attention
    if attention == "flash_attention_2" and _on_meta():
        attention = None  # a plan is made where nothing runs: the kernel need not be there
    llm_config = copy.deepcopy(llm_config)  # building writes into it
    try:
        return auto.from_config(
            llm_config, attn_implementation=attention, dtype=torch.get_default_dtype()
        )
    except (ImportError, ValueError) as error:
        if attention is None:
            raise ModelError(
                f"model.llm.name = {options.name}: {type(llm_config).__name__} is no language "
                f"model that transformers can build ({_first_line(error)}); choose another"
            ) from None
        raise ModelError(
            f"model.llm.attention = {attention}: not for this LLM, here ({_first_line(error)}); "
            "use model.llm.attention=auto"
        ) from None


def _load_4bit(options: LLMConfig) -> Any:
    """The LLM with its linear layers in NF4, on this process's GPU.

    Not run by any test of ours: it needs a GPU and bitsandbytes.
    """
    if options.name is None:
        raise ModelError(
            "model.llm.quantize = nf4: needs an LLM with a checkpoint of its own; set "
            "model.llm.name, such as google/flan-t5-xl for Salesforce/instructblip-flan-t5-xl"
        )
    if not torch.cuda.is_available():
        raise ModelError("model.llm.quantize = nf4: needs a GPU, and there is none; use none")
    from transformers import AutoConfig, BitsAndBytesConfig

    llm_config = AutoConfig.from_pretrained(options.name, trust_remote_code=False)
    auto = AutoModelForSeq2SeqLM if is_encoder_decoder(llm_config) else AutoModelForCausalLM
    try:
        return auto.from_pretrained(
            options.name,
            trust_remote_code=False,
            quantization_config=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=torch.bfloat16,
            ),
            attn_implementation=None if options.attention == "auto" else options.attention,
            dtype=torch.bfloat16,
            device_map={"": torch.cuda.current_device()},
        )
    except ImportError as error:
        raise ModelError(
            f"model.llm.quantize = nf4: {_first_line(error)}; pip install bitsandbytes"
        ) from None


def _use_liger(llm: Any) -> None:
    """Swap the LLM's norms, rotary embedding and gated MLP for Liger's fused kernels.

    The losses stay ours: they are taken pair by pair. Not run by any test of ours: it needs a GPU.
    """
    if not torch.cuda.is_available():
        if next(llm.parameters()).is_meta:
            return  # a plan: nothing runs
        raise ModelError("model.llm.liger = true: needs a GPU, and there is none; use false")
    try:
        from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
            _apply_liger_kernel_to_instance,
        )
        from liger_kernel.transformers.monkey_patch import (  # pyright: ignore[reportMissingImports]
            MODEL_TYPE_TO_APPLY_LIGER_FN,
        )
    except ImportError:
        raise ModelError("model.llm.liger = true: pip install liger-kernel, or use false") from None
    kind = llm.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ModelError(f"model.llm.liger = true: Liger has no kernels for {kind}; use false")
    _apply_liger_kernel_to_instance(
        model=llm, cross_entropy=False, fused_linear_cross_entropy=False
    )


def _add_adapters(llm: Any, lora: LoRAConfig) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    targets = list(lora.targets) if lora.targets is not None else block_linears(llm)
    if not targets:
        raise ModelError(
            f"model.llm.lora.targets = null: a {type(llm).__name__} has no linear layers to adapt; "
            "name the modules, or use model.llm.train=frozen"
        )
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=cast(int, lora.alpha),  # peft divides it by the rank; any number does
        lora_dropout=lora.dropout,
        target_modules=targets,
    )
    try:
        inject_adapter_in_model(settings, llm)
    except ValueError as error:
        raise ModelError(
            f"model.llm.lora.targets = {targets}: {_first_line(error)}; choose of the LLM's linear "
            f"layers, which end in {sorted({name.split('.')[-1] for name in block_linears(llm)})}"
        ) from None
    for name, parameter in llm.named_parameters():
        parameter.requires_grad_(is_adapter(name))


def block_linears(llm: Any) -> list[str]:
    """Names of the linear layers of an LLM's blocks: all but the output head."""
    blocks = [name for name, module in llm.named_modules() if isinstance(module, nn.ModuleList)]
    inside = tuple(f"{name}." for name in blocks)
    return [
        name
        for name, module in llm.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(inside) and ".lora_" not in name
    ]


@torch.no_grad()
def _draw_adapters(llm: Any, seed: int) -> None:
    for name, parameter in llm.named_parameters():
        if is_adapter(name) and not parameter.is_meta:
            parameter.copy_(adapter_value(name, tuple(parameter.shape), seed))


def _on_meta() -> bool:
    return torch.empty(0).is_meta


def _first_line(error: Exception) -> str:
    """What another library complains about, without its advice."""
    return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
