"""`gcg import-released`: a checkpoint of the authors' code as a model of ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gcg.build import build_skeleton, model_weights, used_parts
from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.saved import Parts
from gcg.saving import Saving, plan_saving, save_pretrained
from gcg.weights import fetch_sources
from gcg.weights.files import read_checkpoint
from gcg.weights.released import grounding_prefix, misfits, reader_of, renamed
from gcg.weights.tensors import whole
from launcher.errors import UserError
from launcher.storage.new_folder import check_new, check_room, new_folder


@dataclass(frozen=True)
class Imported:
    """A model made of a released checkpoint: ``taken`` of its tensors are in it, ``left`` not.

    ``reader``: whether its Q-Former was among them; else the public one is in its place.
    """

    saving: Saving
    taken: int
    left: list[str]
    reader: bool


def plan_import(
    file: Path, config: GCGConfig, out: Path, parts: Parts = "trained", seed: int = 0
) -> Imported:
    """Read a checkpoint (``.pth``, ``.bin`` or safetensors), and check it against a model and the
    folder that shall be written.

    What the checkpoint lacks keeps its public or first weights.

    Raises:
        UserError: ``out`` is taken or has too little room, or there is no checkpoint of that code.
        ModelError: it holds no grounding module of the released code, or one of other sizes than
            the configuration's, a line for each.
    """
    check_new(f"--to {out}", out)
    if not file.is_file():
        raise UserError(f"{file}: no such file; give the authors' checkpoint")
    tensors = read_checkpoint(file)
    prefix = grounding_prefix(tensors)
    if prefix is None:
        raise UserError(
            f"{file}: holds no grounding module of the released code (no ...logit_gauss_c.1.weight)"
            "; give a checkpoint of that code, whole"
        )
    if config.llm.train == "full":
        raise UserError(
            "model.llm.train = full: the released code leaves the language model as it is; use "
            "frozen"
        )
    grounding = renamed(tensors, prefix)
    if lines := misfits(grounding, config):
        raise ModelError(lines)
    fetch_sources(config, used_parts(config))
    model = build_skeleton(config)
    reader = reader_of(tensors, config)
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
    wanted = {n for n, p in model.named_parameters() if p.requires_grad}
    first = {n: w for n, w in model_weights(model, config, seed) if n in wanted}
    own = {n for n in wanted if n.startswith(("generator.", "contrast."))}
    if missing := sorted(own - set(grounding)):
        raise UserError(f"{file}: has no {prefix}... for {missing[0]}; give the whole checkpoint")
    if odd := [n for n in sorted(own) if tuple(grounding[n].shape) != shapes[n]]:
        raise UserError(
            f"{file}: {odd[0]} has the shape {tuple(grounding[odd[0]].shape)}, this model's has "
            f"{shapes[odd[0]]}; give a checkpoint of the released code, unchanged"
        )
    state = {name: whole(weight) for name, weight in {**first, **reader, **grounding}.items()}
    used = {id(weight) for weight in (*grounding.values(), *reader.values())}
    left = [name for name, weight in tensors.items() if id(weight) not in used]
    saving = plan_saving(config, state, parts, seed=seed)
    check_room(f"--to {out}", out, saving.num_bytes)
    return Imported(saving, len(tensors) - len(left), left, bool(reader))


def write_import(imported: Imported, file: Path, out: Path) -> None:
    """Write the model's folder, which appears when it is complete."""
    with new_folder(f"--to {out}", out) as partial:
        save_pretrained(imported.saving, partial, more={"run": {"imported_from": file.name}})
