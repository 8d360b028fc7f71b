"""Models without weights: built on the meta device, then given their weights one at a time.

A skeleton has every parameter on the meta device, so a model of any size is built in a second or
two and takes no memory. Its buffers are real: position ids and rotary tables are computed by the
modules' constructors and stand in no checkpoint, so there is nothing to fill them from later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gcg.errors import ModelError
from gcg.weights.tensors import Weight

Module = TypeVar("Module", bound=nn.Module)

# Weights are copied so many elements at a time: what a copy needs besides its target stays small.
CHUNK = 1 << 23


def skeleton(make: Callable[[], Module]) -> Module:
    """What ``make`` builds, its parameters on the meta device and its buffers on the CPU.

    Raises:
        ModelError: a buffer was made by ``torch.empty``, so its value is in no constructor.
    """
    with torch.random.fork_rng(devices=[]), _EmptyOnMeta():
        module = make()
    for parameter in module.parameters():
        if not parameter.is_meta:  # made by another function than torch.empty
            replace(parameter, parameter.detach().to("meta"))
    empty = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if empty:
        raise ModelError(f"{type(module).__name__}: buffers without a value: {', '.join(empty)}")
    return module


def materialise(
    module: nn.Module,
    values: Iterable[tuple[str, Weight]],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> None:
    """Give every parameter of a skeleton its values, whole, and bring the buffers to ``device``.

    ``values`` comes by parameter name; of tied parameters any one name. Parameters become
    ``dtype``, buffers keep theirs. At its peak this needs the model and :data:`CHUNK` elements.

    Raises:
        ModelError: a parameter has no values, or values of another shape.
    """

    def place(parameter: nn.Parameter, source: Weight) -> None:
        whole = torch.empty(parameter.shape, dtype=dtype, device=device)
        copy_flat(source, 0, whole.view(-1))
        replace(parameter, whole)

    fill(module, values, place)
    buffers_to(module, device)


def fill(
    module: nn.Module,
    values: Iterable[tuple[str, Weight]],
    place: Callable[[nn.Parameter, Weight], None],
) -> None:
    """Call ``place`` once for each parameter on the meta device (tied ones count as one).

    Values under a buffer's name are copied into the buffer.

    Raises:
        ModelError: a parameter has no values, or values of another shape.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    buffers = dict(module.named_buffers())
    waiting = {id(p): name for name, p in module.named_parameters() if p.is_meta}
    for name, source in values:
        target = parameters.get(name)
        if target is None:
            target = buffers[name]
        if tuple(source.shape) != tuple(target.shape):
            raise ModelError(
                f"{name}: the weights have shape {tuple(source.shape)}, the model has "
                f"{tuple(target.shape)}; the checkpoint is of another model"
            )
        if not isinstance(target, nn.Parameter):
            target.copy_(source.flat(0, target.numel()).view(target.shape))
        elif waiting.pop(id(target), None) is not None:
            place(target, source)
    if waiting:
        raise ModelError(f"no weights for {', '.join(sorted(waiting.values()))}")


def copy_flat(source: Weight, start: int, target_N: Tensor) -> None:
    """Copy values ``start`` to ``start + N`` into ``target_N``, cast to its dtype and device."""
    for first in range(0, len(target_N), CHUNK):
        part = target_N[first : first + CHUNK]
        part.copy_(source.flat(start + first, start + first + len(part)))


def buffers_to(module: nn.Module, device: torch.device | str) -> None:
    """Move the buffers, and nothing else, to a device."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False, remove_duplicate=False):
            owner._buffers[name] = buffer.to(device)


def replace(parameter: nn.Parameter, tensor: Tensor) -> None:
    """Make ``parameter`` hold ``tensor``, of any device and dtype, wherever it is used."""
    # Assigning to .data is refused across devices, and putting a new Parameter in its place would
    # have to be done in every module that shares it.
    new = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
    vars(new).update(vars(parameter))
    torch.utils.swap_tensors(parameter, new)


class _EmptyOnMeta(TorchFunctionMode):
    """``torch.empty``, from which modules make their parameters, gives tensors without memory.

    ``torch.device("meta")`` would take the buffers along.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty and options.get("device") is None:
            options["device"] = "meta"
        return func(*args, **options)
