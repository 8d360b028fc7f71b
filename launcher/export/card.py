"""The page of an exported model: what it is, how to use it, its figures, what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dataloaders.trust import redacted
from gcg.build import encoder_fingerprint
from gcg.config import GCGConfig
from gcg.errors import ModelError
from gcg.saved import Parts
from gcg.weights.hub import HUB_NAME
from launcher.checkpoints.fits import versions
from launcher.config import fingerprint
from launcher.export.run import TrainedRun
from launcher.observe.runlog import read_metrics
from launcher.storage.run_folder import read_json

_FIGURES = (
    ("accuracy", "accuracy"),
    ("acc_gqa", "Acc@GQA"),
    ("miop", "mIoP"),
    ("iop@0.5", "IoP@0.5"),
    ("miou", "mIoU"),
    ("iou@0.5", "IoU@0.5"),
)


def origin(run: TrainedRun) -> dict[str, Any]:
    """Where a model comes from, for its ``config.json``."""
    identity = read_json(run.folder.identity) or {}
    try:
        encoder = encoder_fingerprint(run.config.model)
    except ModelError:  # the frozen weights are not on this machine
        encoder = None
    return {
        "run": {
            "name": run.config.run.name,
            "weights": run.weights,
            "step": run.meta.get("step"),
            "seed": run.config.run.seed,
            "config_fingerprint": fingerprint(run.config),
            "data_fingerprint": run.meta.get("data", identity.get("data")),
            "encoder_fingerprint": encoder,
        },
        "versions": run.meta.get("versions") or versions(),
    }


def model_card(
    run: TrainedRun,
    made: Mapping[str, Any],
    config: GCGConfig,
    parts: Parts,
    results: Mapping[str, Mapping[str, Any]],
) -> str:
    """The page, Markdown with the hub's front matter.

    Args:
        run: what was exported.
        made: of :func:`origin`.
        config: of the model as it was written.
        parts: which weights are in the folder.
        results: of `gcg eval --out`, those of this run.
    """
    sections = [
        _front(config),
        f"# {run.config.run.name}",
        _what(config),
        _use(config, parts),
        _figures(run, results),
        _trained(run, made),
        _needs(config, parts),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front(config: GCGConfig) -> str:
    places = (config.checkpoint, config.clip_checkpoint, config.llm.name)
    named = [place for place in places if place and HUB_NAME.fullmatch(place)]
    tree: dict[str, Any] = {
        "library_name": "gcg-train",
        "pipeline_tag": "video-text-to-text",
        "tags": ["video-question-answering", "temporal-grounding", "gcg", config.profile],
    }
    if config.preset != "tiny" and named:
        tree["base_model"] = named
    return f"---\n{yaml.safe_dump(tree, sort_keys=False)}---"


def _what(config: GCGConfig) -> str:
    llm = config.llm.name or config.checkpoint or "the preset's own"
    return (
        "A video question answering model that finds the moment before it answers (GCG, "
        f"[arXiv 2401.10711](https://arxiv.org/abs/2401.10711)), profile `{config.profile}`, mode "
        f"`{config.mode}`. It reads {config.num_frames} frames of a clip and answers from "
        f"{config.num_moments} of them. Preset `{config.preset}`; language model: "
        f"{redacted(llm)} ({config.llm.train})."
    )


def _use(config: GCGConfig, parts: Parts) -> str:
    code = f"""## Use

Needs gcg-train without its extras: neither Ray nor DeepSpeed nor DALI.

```python
from gcg import GCGModel, GCGProcessor

model, processor = GCGModel.from_pretrained(PLACE), GCGProcessor.from_pretrained(PLACE)
options = ["it moves left", "it turns blue"]
# frames: uint8 ({config.num_frames}, H, W, 3)
inputs = processor(frames, "What does the circle do?", options)
answers = model.answer(inputs)
print(processor.predictions(answers, [options], duration=12.0)[0])
```

`PLACE` is this folder, or its name on the hub. From a video file: `gcg predict VIDEO "question"
--model PLACE`."""
    if config.input == "features":
        code += "\n\nThis model reads frame features, not pixels: see docs/data.md of gcg-train."
    if config.llm.train == "lora" and parts != "merged":
        name = config.llm.name or config.checkpoint
        plain = f", {redacted(name)}" if name else ""
        code += (
            "\n\n`adapter/` is the language model's LoRA adapter; it also loads on the plain "
            f"language model{plain} with `peft.PeftModel.from_pretrained(llm, 'adapter')`."
        )
    return code


def _figures(run: TrainedRun, results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [(f"{each['split']} split", each) for each in results.values()]
    step = run.meta.get("step")
    for row in read_metrics(run.folder.metrics):
        if row["kind"] == "val" and row["step"] == step:
            rows.append((f"validation in training, step {step}", row))
    if not rows:
        return (
            "## Figures\n\nNone were measured at this step. (`gcg eval RUN --out results.json`, "
            "then `gcg export RUN --results results.json`.)"
        )
    there = [pair for pair in _FIGURES if any(row.get(pair[0]) is not None for _, row in rows)]
    lines = [
        "| measured on | " + " | ".join(title for _, title in there) + " | questions |",
        "|---|" + "---|" * (len(there) + 1),
    ]
    for name, row in rows:
        cells = " | ".join(_percent(row.get(key)) for key, _ in there)
        lines.append(f"| {name} | {cells} | {row.get('num_questions', '-')} |")
    return "## Figures\n\nIn percent.\n\n" + "\n".join(lines)


def _trained(run: TrainedRun, made: Mapping[str, Any]) -> str:
    config, own = run.config, made["run"]
    names = [Path(each.place).name for each in config.data.sets]
    rows = {
        "run, weights": f"`{own['name']}`, {own['weights']}, step {own['step']}",
        "training data": ", ".join(f"`{redacted(name)}`" for name in names),
        "data fingerprint": f"`{own['data_fingerprint']}`",
        "run file fingerprint": f"`{own['config_fingerprint']}`",
        "frozen encoders' fingerprint": f"`{own['encoder_fingerprint']}`",
        "seed": own["seed"],
        "steps, visits a step": f"{config.optim.steps}, {config.data.global_batch}",
        "learning rates": f"{config.optim.lr:g}, grounding {config.optim.grounding_lr:g}",
        "precision": config.engine.precision,
        "versions": ", ".join(f"{k} {v}" for k, v in sorted(made["versions"].items())),
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "## Trained\n\n| | |\n|---|---|\n" + "\n".join(lines)


def _needs(config: GCGConfig, parts: Parts) -> str:
    if parts == "merged":
        return "## Weights\n\nAll are here; adapters are folded into the language model."
    if parts == "all":
        return "## Weights\n\nAll are here, the frozen ones too."
    if config.preset == "tiny":
        frozen = ["the tiny encoders, which ship with the package"]
        if config.llm.name is None:
            return f"## Weights\n\nHere is what training made; not {frozen[0]}."
    else:
        frozen = [f"`model.checkpoint`: {config.checkpoint}"]
        frozen.append(f"`model.clip_checkpoint`: {config.clip_checkpoint}")
    if config.llm.name is not None and config.llm.train != "full":
        frozen.append(f"`model.llm.name`: {config.llm.name}")
    lines = "\n".join(f"- {redacted(each)}" for each in frozen)
    return (
        "## Weights\n\nHere is what training made. Frozen parts are loaded from:\n\n"
        f"{lines}\n\nIf they lie elsewhere: `GCGModel.from_pretrained(PLACE, checkpoint=..., "
        "clip_checkpoint=..., llm=...)`."
    )


def _percent(value: Any) -> str:
    return "-" if not isinstance(value, (int, float)) else f"{100 * value:.1f}"
