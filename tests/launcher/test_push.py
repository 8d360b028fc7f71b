"""`gcg push`: lists first, sends only when told to, to a double of the hub on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils._http import reset_sessions

from gcg import GCGConfig, GCGModel
from gcg.build import build_model
from gcg.saving import plan_saving, save_pretrained
from launcher.cli import main
from tests.gcg.weights.checkpoints import make_llm
from tests.gcg.weights.hub_server import Hub, reach, serving

TOKEN = "hf_right"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as server:
        reach(server, monkeypatch, tmp_path / "cache")
        server.token = TOKEN
        yield server
    monkeypatch.undo()
    reset_sessions()


def exported(folder: Path, **model: object) -> GCGModel:
    config = GCGConfig.model_validate({"num_frames": 4, "num_moments": 2, **model})
    built = build_model(config, seed=7)
    state = {n: p.detach() for n, p in built.named_parameters() if p.requires_grad}
    folder.mkdir()
    save_pretrained(plan_saving(config, state, seed=7), folder)
    (folder / "README.md").write_text("# A model\n")
    (folder / ".cache").write_text("not sent")
    return built


def test_there_and_back(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    model = exported(folder, llm={"train": "lora"})
    command = ["push", str(folder), "someone/model"]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "nothing was sent; --publish sends these" in said
    assert not hub.commits
    assert not list(hub.root.iterdir())
    assert main([*command, "--publish"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{hub.url}/someone/model"
    (paths,) = hub.commits
    assert set(paths) == {line.split()[1] for line in said.splitlines()[:-1]}
    assert "adapter/adapter_model.safetensors" in paths
    assert ".cache" not in paths
    assert all(
        (hub.root / "someone/model" / path).read_bytes() == (folder / path).read_bytes()
        for path in paths
    )
    again = GCGModel.from_pretrained("someone/model")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_who_may_not_write_is_told(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(tmp_path / "model")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    command = ["push", str(tmp_path / "model"), "someone/model", "--publish"]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "HTTP 401; log in with `hf auth login`" in line
    assert "hf_wrong" not in line
    assert not list(hub.root.iterdir())


def test_what_nobody_could_load_is_not_pushed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_llm(tmp_path / "llm", "qwen2")
    exported(tmp_path / "model", llm={"name": str(tmp_path / "llm")})
    (tmp_path / "empty").mkdir()
    for arguments, rule in (
        ([str(tmp_path / "model"), "someone/model"], "nobody else could load the model"),
        ([str(tmp_path / "empty"), "someone/model"], "holds no config.json"),
        ([str(tmp_path / "none"), "someone/model"], "no such folder"),
        ([str(tmp_path / "empty"), "model"], "give OWNER/NAME"),
    ):
        assert main(["push", *arguments, "--publish"]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert rule in line
