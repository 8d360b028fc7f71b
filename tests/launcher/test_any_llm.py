"""Runs with a language model of one's own: adapters under ZeRO-3, a frozen one, open questions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dataloaders.manifest import Question, Video, read_manifest
from dataloaders.shards import pack
from gcg.build import build_model
from gcg.llm import is_adapter
from launcher.config import RunConfig, parse_run_config
from launcher.evaluation.evaluate import evaluate_split, gather_rows
from launcher.storage.run_folder import RunFolder
from launcher.training.sharded import build_for_engine
from launcher.training.weights import load_trained_weights
from launcher.training.worker import run_worker
from tests.gcg.test_chat import CHATML
from tests.gcg.weights.checkpoints import LLM, make_llm
from tests.launcher.conftest import run_tree
from tests.spawn import run_ranks

LORA = {"train": "lora", "lora": {"rank": 2, "dropout": 0.1}, "max_answer_tokens": 6}
CASES: dict[str, dict[str, Any]] = {
    "lora": {"engine": {"zero": 3, "precision": "fp32", "micro_batch": 1}, "llm": LORA},
    "frozen": {
        "engine": {"zero": 2, "precision": "bf16", "recompute": ["llm"]},
        "llm": {"train": "frozen", "max_answer_tokens": 6},
    },
}
LLMS: dict[str, LLM] = {"lora": "qwen3", "frozen": "llama"}


def half_open(videos: Iterable[Video]) -> Iterator[Video]:
    """Every second video asks an open question instead of its others."""
    for number, video in enumerate(videos):
        question = Question(id="o", question="What happens here?", answer="the ball rolls away")
        yield video.model_copy(update={"questions": [question]}) if number % 2 else video


@pytest.fixture(scope="module")
def configs(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunConfig]:
    root = tmp_path_factory.mktemp("llms")
    raw = packed / "raw" / "test.jsonl"
    pack(half_open(read_manifest(raw)), root / "open", root=raw.parent, shard_bytes=200_000)
    found = {}
    for name, case in CASES.items():
        make_llm(root / name, LLMS[name], chat_template=CHATML if name == "lora" else None)
        tree = run_tree(
            packed,
            root / "runs",
            run={"name": name},
            data={"val": str(root / "open")},
            engine=case["engine"],
            optim={"steps": 2, "lr": 1e-2},
            eval={"max_videos": None},
        )
        model = {
            **tree["model"],
            "mode": "uniform",
            "llm": {**case["llm"], "name": str(root / name)},
        }
        found[name] = parse_run_config({**tree, "model": model})
    return found


Answered = tuple[list[dict[str, Any]], list[list[int]], list[list[int]]]


def train_and_answer(configs: dict[str, RunConfig]) -> Answered:
    """Train each run; then answer with the partitioned model of ``lora``, still untrained."""
    from launcher.training.engine import build_engine

    for config in configs.values():
        run_worker(config, lambda figures: None)
    config = configs["lora"]
    model = build_engine(build_for_engine(config), config).module
    rank, world_size = dist.get_rank(), dist.get_world_size()
    rows = gather_rows(evaluate_split(model, config, "val", rank, world_size), world_size)
    return rows, *unequal_answers(model.eval())


def unequal_answers(model: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Each rank's answer, first as long as allowed, then with an end that only rank 0 meets."""
    width = model.answerer.llm.config.hidden_size
    soft = torch.randn(1, 2, width, generator=torch.Generator().manual_seed(dist.get_rank()))
    prompt = torch.tensor([[40, 41, 42 + dist.get_rank()]])

    def written() -> list[list[int]]:
        with torch.no_grad():
            tokens = model.answerer.generate(soft, prompt, torch.ones_like(prompt), 8)
        every: list[Any] = [None, None]
        dist.all_gather_object(every, tokens[0].tolist())
        return every

    whole = written()
    model.answerer.llm.generation_config.eos_token_id = [min({*whole[0]} - {*whole[1]})]
    return whole, written()


@pytest.fixture(scope="module")
def answered(configs: dict[str, RunConfig]) -> Answered:
    # Would hang, not fail, if the ranks' language models were called unequally often.
    return run_ranks(train_and_answer, 2, configs, timeout_s=280)[0]


def test_partitioned_ranks_answer_what_one_process_answers(
    configs: dict[str, RunConfig], answered: Answered
) -> None:
    """Under ZeRO-3, with a chat template; options on one rank while the other writes."""
    config, rows = configs["lora"], answered[0]
    alone = evaluate_split(build_model(config.model, config.run.seed), config, "val")
    assert [row["predicted"] for row in rows] == [row["predicted"] for row in alone]
    assert {row["question"] == "o" for row in rows} == {True, False}


def test_a_rank_that_has_its_answer_waits_for_the_others(answered: Answered) -> None:
    _, whole, ended = answered
    assert [len(row) for row in whole] == [8, 8]
    assert len(ended[0]) < 8
    assert ended[0] == whole[0][: len(ended[0])]
    assert ended[1] == whole[1]


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_holds_what_was_trained_and_not_the_llm(
    configs: dict[str, RunConfig], answered: Answered, name: str
) -> None:
    config = configs[name]
    weights = load_trained_weights(RunFolder(config.folder).final)
    model = build_model(config.model, config.run.seed)
    begun = {n: p.clone() for n, p in model.named_parameters()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert not learning & set(missing)
    adapters = {n for n in learning if is_adapter(n)}
    assert bool(adapters) == (name == "lora")
    frozen = {n for n in begun if n.startswith("answerer.")} - adapters
    assert frozen
    assert not frozen & set(weights)
    for parameter in adapters | {"reader.projection.weight"}:
        assert not torch.equal(weights[parameter], begun[parameter].float()), parameter
