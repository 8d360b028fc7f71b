"""A bare torch loop that trains what a run file says: the yardstick of `benchmarks.whole_step`.

    python -m benchmarks.bare_loop RUN_FILE STEPS WARM

One process without Ray, DeepSpeed, checkpoints, logs or checks: the run's model, its loader's
batches, backward, clipping, torch's fused AdamW. Prints the seconds of each step after the first
WARM as JSON, from asking for its batch until its update is made.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from dataloaders.loader import StepBatch
from gcg.build import build_model
from gcg.model import GCGModel
from launcher.config import RunConfig, load_run_config
from launcher.training.build import build_parts
from launcher.training.data import build_loader
from launcher.training.optimizer import learning_rate_share, parameter_groups


def steps(file: Path, count: int, warm: int) -> list[float]:
    """Seconds of each step of a run on one worker that keeps every weight whole."""
    config = load_run_config(file)
    torch.set_num_threads(config.scale.threads_per_worker)
    model = build_model(config.model, config.run.seed).train()
    parts = build_parts(config.model, model)
    source, loader = build_loader(config, parts, 0, 1, file.with_suffix(".quarantine"))
    adam = torch.optim.AdamW(
        parameter_groups(model, config.optim), betas=config.optim.betas, fused=True
    )
    seconds = []
    with source, loader:
        for number in range(count):
            began = time.perf_counter()
            _step(model, adam, next(loader), config, number)
            seconds.append(time.perf_counter() - began)
    return seconds[warm:]


def _step(
    model: GCGModel, adam: torch.optim.AdamW, batch: StepBatch, config: RunConfig, number: int
) -> float:
    for group in adam.param_groups:
        group["lr"] = group["base_lr"] * learning_rate_share(number, config.optim, group["name"])
    weights, whole = config.model.loss, 0.0
    for micro in batch.micro:
        output = model(**micro.model_inputs())
        losses = output.loss_vqa + weights.alpha_reg * output.loss_reg
        loss = (losses + weights.alpha_con * output.loss_con).sum() / batch.num_pairs
        loss.backward()
        whole += loss.item()
    torch.nn.utils.clip_grad_norm_(
        [p for group in adam.param_groups for p in group["params"]], config.optim.clip_norm
    )
    adam.step()
    adam.zero_grad()
    return whole


if __name__ == "__main__":
    taken = steps(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(json.dumps({"seconds": taken}) + "\n")
