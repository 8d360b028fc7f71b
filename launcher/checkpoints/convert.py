"""The process of one conversion: ``python -m launcher.checkpoints.convert IN OUT NUM PARENT``.

NUM: processes; PARENT: the process that it ends with. IN is the ``zero`` folder of a checkpoint of
any ZeRO stage. OUT becomes, for every stage alike::

    zero/<parameter>/fp32.pt  exp_avg.pt  exp_avg_sq.pt    whole tensors, as DeepSpeed writes them
    state.pt                                               counters, loss scale, buffers

DeepSpeed 0.19.8 turns the shards into parameters right, at all stages and with frozen parameters
left out. What else it writes differs by stage, and at stage 3 holds a rank's whole optimizer state
that every rank would read; ``state.pt`` takes its place.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

STATE = "state.pt"
_PR_SET_PDEATHSIG = 1
STATES = ("fp32", "exp_avg", "exp_avg_sq")


def main(argv: list[str]) -> None:
    source, out, processes, parent = Path(argv[0]), Path(argv[1]), int(argv[2]), int(argv[3])
    _end_with(parent)
    own = os.getpid()
    os.register_at_fork(after_in_child=lambda: _end_with(own))
    from launcher.training.engine import import_deepspeed

    import_deepspeed(use_gpu=False)
    import torch
    from deepspeed.checkpoint import ds_to_universal

    from launcher.checkpoints.safe_load import only_known_classes

    torch.set_num_threads(1)
    with only_known_classes():  # for all that DeepSpeed reads, its pool's processes included
        ds_to_universal.main(
            Namespace(
                input_folder=str(source),
                output_folder=str(out),
                num_extract_workers=processes,
                num_merge_workers=processes,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,  # stages 1 and 2 need a version number, no more
            )
        )
    (out.parent / "latest_universal").unlink(missing_ok=True)
    torch.save(_common_state(source), out / STATE)
    _drop_the_rest(out)


def _end_with(parent: int) -> None:
    """A process whose parent is killed would wait for it for ever (Linux: prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before that was said
            os._exit(1)


def _common_state(source: Path) -> dict[str, Any]:
    import torch

    (optimizer_file, *_) = sorted(source.glob("*zero_pp_rank_0_mp_rank_00_optim_states.pt"))
    (model_file, *_) = sorted(source.glob("*mp_rank_00_model_states.pt"))
    optimizer = _load(optimizer_file)["optimizer_state_dict"]
    base = optimizer.get("base_optimizer_state") or optimizer["optimizer_state_dict"]
    (step,) = {float(state["step"]) for state in base["state"].values()}
    model = _load(model_file)
    buffers = {name: model["module"][name].clone() for name in model["buffer_names"]}
    return {
        "step": torch.tensor(step),
        "loss_scaler": optimizer["loss_scaler"],
        "dynamic_loss_scale": optimizer["dynamic_loss_scale"],
        "overflow": optimizer["overflow"],
        "buffers": buffers,
        **{name: model[name] for name in ("global_steps", "global_samples", "skipped_steps")},
    }


def _load(file: Path) -> dict[str, Any]:
    from launcher.checkpoints.safe_load import load

    return load(file, mmap=True)


def _drop_the_rest(out: Path) -> None:
    for file in (*out.glob("*_model_states.pt"), out / "zero" / "optimizer_state.pt"):
        file.unlink(missing_ok=True)
    for folder in (out / "zero").iterdir():
        (folder / "step.pt").unlink(missing_ok=True)
        if not (folder / f"{STATES[1]}.pt").exists():  # a buffer, or a weight without an optimizer
            shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
