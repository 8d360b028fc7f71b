"""What lies on the disk before a bad run file is tried: each makes it below an empty folder.

A place may be told of the run file's tree, as it is before the case's change.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from launcher.checkpoints.commit import commit, open_checkpoint, record_rank
from launcher.checkpoints.fence import begin_attempt
from launcher.checks.preflight import claim
from launcher.config import fingerprint, parse_run_config
from launcher.storage.run_folder import RunFolder
from tests.gcg.writers import save_writer

Tree = dict[str, Any]


def file_for_storage(tmp: Path, packed: Path, tree: Tree) -> None:
    (tmp / "file").touch()


def file_for_run(tmp: Path, packed: Path, tree: Tree) -> None:
    (tmp / "runs").mkdir()
    (tmp / "runs" / tree["run"]["name"]).touch()


def read_only_storage(tmp: Path, packed: Path, tree: Tree) -> None:
    (tmp / "locked").mkdir(mode=0o500)


def empty_folder(tmp: Path, packed: Path, tree: Tree) -> None:
    (tmp / "empty").mkdir()


def _copy(tmp: Path, packed: Path, split: str = "train") -> Path:
    return shutil.copytree(packed / split, tmp / "copy")


def unreadable_data(tmp: Path, packed: Path, tree: Tree) -> None:
    (_copy(tmp, packed) / "index.json").chmod(0)


def broken_index(tmp: Path, packed: Path, tree: Tree) -> None:
    index = _copy(tmp, packed) / "index.json"
    index.write_bytes(index.read_bytes()[:200])


def _change_index(tmp: Path, packed: Path, **values: Any) -> None:
    index = _copy(tmp, packed) / "index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **values}))


def empty_index(tmp: Path, packed: Path, tree: Tree) -> None:
    _change_index(tmp, packed, shards=[])


def index_of_another_release(tmp: Path, packed: Path, tree: Tree) -> None:
    _change_index(tmp, packed, version=99)


def no_shards(tmp: Path, packed: Path, tree: Tree) -> None:
    for tar in _copy(tmp, packed).glob("*.tar"):
        tar.unlink()


def _change_labels(tmp: Path, packed: Path, **values: Any) -> None:
    meta = _copy(tmp, packed) / "labels" / "topk" / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), **values}))


def labels_of_other_data(tmp: Path, packed: Path, tree: Tree) -> None:
    _change_labels(tmp, packed, data="other")


def labels_of_another_encoder(tmp: Path, packed: Path, tree: Tree) -> None:
    _change_labels(tmp, packed, encoder="other")


def val_without_labels(tmp: Path, packed: Path, tree: Tree) -> None:
    shutil.rmtree(_copy(tmp, packed, "val") / "labels")


def file_and_data_at_a_url(tmp: Path, packed: Path, tree: Tree) -> None:
    file_for_storage(tmp, packed, tree)
    _data_at_a_url(packed)


def cache_and_data_at_a_url(tmp: Path, packed: Path, tree: Tree) -> None:
    (tmp / "cache").mkdir()
    (tmp / "cache" / ".lock").touch()
    _data_at_a_url(packed)


def _data_at_a_url(packed: Path) -> None:
    import fsspec

    root = packed / "train"
    memory = fsspec.filesystem("memory")
    for file in sorted(path for path in root.rglob("*") if path.is_file()):
        memory.pipe_file(f"gcg-bad-configs/train/{file.relative_to(root)}", file.read_bytes())


def llm_without_weights(tmp: Path, packed: Path, tree: Tree) -> None:
    (save_writer(tmp / "llm") / "model.safetensors").unlink()


def llm_cut_off(tmp: Path, packed: Path, tree: Tree) -> None:
    weights = save_writer(tmp / "llm") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def llm_without_tokenizer(tmp: Path, packed: Path, tree: Tree) -> None:
    for file in save_writer(tmp / "llm").glob("*token*"):
        file.unlink()


def llm_of_another_kind(tmp: Path, packed: Path, tree: Tree) -> None:
    (tmp / "llm").mkdir()
    (tmp / "llm" / "config.json").write_text('{"model_type": "teapot"}')


def begun_run(tmp: Path, packed: Path, tree: Tree) -> None:
    claim(parse_run_config(tree))


def begun_run_without_its_file(tmp: Path, packed: Path, tree: Tree) -> None:
    begun_run(tmp, packed, tree)
    RunFolder(parse_run_config(tree).folder).config.write_text("run: {")


def checkpoint_on_other_data(tmp: Path, packed: Path, tree: Tree) -> None:
    config = parse_run_config(tree)
    folder = RunFolder(config.folder)
    attempt = begin_attempt(folder)
    path = open_checkpoint(folder, 2, attempt)
    record_rank(path, 0, 1, {})
    identity = {"world_size": 1, "zero": 3, "config": fingerprint(config), "data": "other"}
    commit(folder, 2, attempt, 1, identity)


PLACES: dict[str, Callable[[Path, Path, Tree], None]] = {
    place.__name__: place
    for place in (
        file_for_storage,
        file_for_run,
        read_only_storage,
        empty_folder,
        unreadable_data,
        broken_index,
        empty_index,
        index_of_another_release,
        no_shards,
        labels_of_other_data,
        labels_of_another_encoder,
        val_without_labels,
        file_and_data_at_a_url,
        cache_and_data_at_a_url,
        llm_without_weights,
        llm_cut_off,
        llm_without_tokenizer,
        llm_of_another_kind,
        begun_run,
        begun_run_without_its_file,
        checkpoint_on_other_data,
    )
}
