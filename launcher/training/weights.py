"""Trained weights out of checkpoints, for evaluation and export: fp32, without frozen parts."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from launcher.checkpoints.commit import META, Checkpoint
from launcher.checkpoints.find import inspect
from launcher.checkpoints.universal import ZERO_TAG
from launcher.config import RunConfig, dump
from launcher.errors import CheckpointError
from launcher.storage.places import download, is_remote, remove_tree, upload
from launcher.storage.run_folder import RunFolder, write_json, write_text

WEIGHTS = "model.safetensors"


def load_trained_weights(folder: Path) -> dict[str, Tensor]:
    """The trained parameters (and saved buffers) by name, float32 on the CPU.

    Frozen parameters are not in a checkpoint: load the result with ``strict=False`` into a model
    built from the run's configuration.

    Args:
        folder: a checkpoint, or a run's ``final`` folder (which needs no DeepSpeed).

    Raises:
        CheckpointError: it is neither, or was not finished.
    """
    if (folder / WEIGHTS).is_file():
        from safetensors.torch import load, load_file

        file = folder / WEIGHTS
        return load(file.read_bytes()) if is_remote(file) else load_file(file)
    found = inspect(folder)
    if found.checkpoint is None:
        raise CheckpointError(f"{folder}: is no complete checkpoint ({found.why}); choose another")
    if not is_remote(folder):
        return _consolidate(folder / ZERO_TAG)
    with tempfile.TemporaryDirectory(prefix="gcg-weights-") as scratch:
        for name in found.checkpoint.files:
            if name.startswith(f"{ZERO_TAG}/"):
                download(folder / name, Path(scratch) / name)
        return _consolidate(Path(scratch) / ZERO_TAG)


def _consolidate(zero_folder: Path) -> dict[str, Tensor]:
    from launcher.training.engine import import_deepspeed

    import_deepspeed(use_gpu=torch.cuda.is_available())
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    said = io.StringIO()  # it prints its progress
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        state: Any = get_fp32_state_dict_from_zero_checkpoint(
            str(zero_folder.parent), tag=zero_folder.name, exclude_frozen_parameters=True
        )
    # A clone each: safetensors refuses tensors that share memory, as tied ones do.
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def write_final(folder: RunFolder, config: RunConfig, checkpoint: Checkpoint) -> Path:
    """Write the run's ``final`` folder from its last checkpoint; it appears complete or not at all.

    It holds ``model.safetensors`` (float32 master weights), ``config.yaml`` and ``meta.json``.
    """
    from safetensors.torch import save_file

    partial = folder.growing / "final.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(load_trained_weights(checkpoint.path), partial / WEIGHTS)
    write_text(partial / "config.yaml", dump(config))
    write_json(partial / META, checkpoint.meta)
    remove_tree(folder.final)
    if not is_remote(folder.final):
        partial.rename(folder.final)
        return folder.final
    for name in (WEIGHTS, "config.yaml", META):  # the last one makes it complete
        upload(partial / name, folder.final / name)
    remove_tree(partial)
    return folder.final
