"""Checkpoint files of every kind, whole and damaged."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gcg.errors import ModelError
from gcg.weights.files import OPEN_CLIP, read_checkpoint
from gcg.weights.tensors import InMemory, StoredTensor, whole

STATE = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.arange(4, dtype=torch.bfloat16),
    "c": torch.tensor(7, dtype=torch.int64),
}


def assert_is_state(found: dict, kind: type = StoredTensor) -> None:
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        assert isinstance(found[name], kind)
        assert found[name].dtype == value.dtype
        assert torch.equal(whole(found[name]), value)


def test_one_file_by_its_name_or_its_folder(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    assert_is_state(read_checkpoint(tmp_path))
    assert_is_state(read_checkpoint(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_shards_with_an_index(tmp_path: Path, kind: str) -> None:
    stem, suffix = kind.split(".")
    save = torch.save if suffix == "bin" else save_file
    shards = {"a": f"{stem}-1.{suffix}", "b": f"{stem}-2.{suffix}", "c": f"{stem}-2.{suffix}"}
    for shard in set(shards.values()):
        save({key: STATE[key] for key in STATE if shards[key] == shard}, tmp_path / shard)
    (tmp_path / f"{kind}.index.json").write_text(json.dumps({"weight_map": shards}))
    assert_is_state(read_checkpoint(tmp_path))
    # A shard that holds nothing wanted need not be there; one that does, must.
    (tmp_path / shards["b"]).unlink()
    assert set(read_checkpoint(tmp_path, wanted=lambda key: key == "a")) == {"a"}
    with pytest.raises(ModelError, match=f"{shards['b']}: is missing"):
        read_checkpoint(tmp_path)


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    torch.save({"other": torch.zeros(1)}, tmp_path / "open_clip_pytorch_model.bin")
    save_file(STATE, tmp_path / "open_clip_model.safetensors")
    assert_is_state(read_checkpoint(tmp_path, OPEN_CLIP))


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"model": s}])
def test_pickled_states_and_their_wrappings(tmp_path: Path, wrap: Callable[[dict], dict]) -> None:
    path = tmp_path / "weights.pt"
    torch.save(wrap({f"module.{name}": value for name, value in STATE.items()}), path)
    assert_is_state(read_checkpoint(path))


def test_views_inside_a_pickle(tmp_path: Path) -> None:
    """A slice of a larger storage is found in it; what is strided is read whole."""
    table = torch.arange(20.0).view(5, 4)
    torch.save({"rows": table[2:4]}, tmp_path / "a.bin")
    found = read_checkpoint(tmp_path / "a.bin")
    assert isinstance(found["rows"], StoredTensor)
    assert torch.equal(whole(found["rows"]), table[2:4])
    torch.save({"turned": table.T}, tmp_path / "b.bin")
    found = read_checkpoint(tmp_path / "b.bin")
    assert isinstance(found["turned"], InMemory)
    assert torch.equal(whole(found["turned"]), table.T)


def test_pickles_of_the_old_format_are_read_whole(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert_is_state(read_checkpoint(tmp_path / "old.bin"), InMemory)


class _Payload:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("executed"),)


def test_a_pickle_with_code_in_it_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": _Payload()}, tmp_path / "evil.bin")
    with pytest.raises(ModelError, match=r"evil\.bin: cannot be read as a PyTorch state dict"):
        read_checkpoint(tmp_path / "evil.bin")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "a/b.bin"])
def test_an_index_names_files_beside_it(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="is no name of a file beside it"):
        read_checkpoint(tmp_path)


def _header(tree: object, data: int = 0) -> bytes:
    text = json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 4) + b"nope",
        _header([1]),
        _header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, data=4),
        _header({"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}, data=8),
        _header({"a": {"shape": [2]}}),
    ],
)
def test_damaged_safetensors_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_checkpoint(path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: cannot be read as safetensors")
    assert "fetch" in line


@pytest.mark.parametrize("content", ["", "[]", '{"weight_map": 3}', '{"other": {}}'])
def test_a_damaged_index_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match="is no index of shards"):
        read_checkpoint(tmp_path)


def test_no_weights_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no weights \(model\.safetensors or"):
        read_checkpoint(tmp_path)
