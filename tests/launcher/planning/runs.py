"""Run files to plan."""

from __future__ import annotations

from typing import Any

from launcher.config import RunConfig, parse_run_config

XL, XXL = "Salesforce/instructblip-flan-t5-xl", "Salesforce/instructblip-flan-t5-xxl"
VICUNA_7B, VICUNA_13B = (f"Salesforce/instructblip-vicuna-{size}" for size in ("7b", "13b"))
LLAMA_70B = "meta-llama/Llama-3.3-70B-Instruct"


def instructblip(checkpoint: str = XL, llm: str | None = None, **sections: Any) -> RunConfig:
    """A run of an InstructBLIP checkpoint, with its own LLM or another."""
    model = {"preset": "instructblip", "checkpoint": checkpoint, "llm": {"name": llm}}
    return run(**{**sections, "model": {**model, **sections.get("model", {})}})


def run(**sections: Any) -> RunConfig:
    """A run on eight GPUs; changes are given as ``section={...}``."""
    tree: dict[str, Any] = {
        "run": {"name": "planned"},
        "data": {"train": "not/here"},
        "optim": {"steps": 10},
        "scale": {"num_workers": 8, "use_gpu": True},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return parse_run_config(tree)
