"""Where figures go beside the run's own file: what fails there never stops or delays training."""

from __future__ import annotations

import logging
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from launcher.cli import main
from launcher.config import parse_run_config
from launcher.errors import ConfigError
from launcher.observe.event_files import EventFiles
from launcher.observe.meter import percentile
from launcher.observe.peak import product_tflops, published_tflops
from launcher.observe.runlog import RunLog, read_metrics
from launcher.observe.sinks import Background, Guarded, Numbers, open_sinks
from launcher.observe.trackers import MLflow
from launcher.storage.run_folder import RunFolder, read_json, write_json

from .conftest import MakeConfig
from .toy import toy_config

needs_mlflow = pytest.mark.skipif(not find_spec("mlflow"), reason="mlflow is not installed")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own imports
def test_a_sink_that_fails_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = RunFolder(tmp_path)
    (tmp_path / "tensorboard").write_text("not a folder")
    log = RunLog(folder, 0, [Guarded("TensorBoard", lambda: EventFiles(folder, 0))])
    for step in (1, 2, 3):
        log.write("train", step, {"loss": 1.0})
    log.rewind(2)
    log.close()
    (line,) = warnings_of(caplog)
    assert line.startswith("TensorBoard: no more figures go there: ")
    assert [row["step"] for row in read_metrics(folder.metrics)] == [1, 2]


class Slow:
    """Takes nothing until it is let."""

    def __init__(self, let: threading.Event) -> None:
        self.let = let
        self.steps: list[int] = []
        self.closed = False

    def write(self, kind: str, step: int, numbers: Numbers) -> None:
        self.let.wait()
        self.steps.append(step)

    def rewind(self, step: int) -> None:
        self.steps.append(-step)

    def close(self) -> None:
        self.closed = True


def test_nobody_waits_for_a_slow_sink(caplog: pytest.LogCaptureFixture):
    let = threading.Event()
    slow = Slow(let)
    sink = Background("slow", lambda: slow, waiting=3, last_words_s=60)
    for step in range(10):
        sink.write("train", step, {})
    let.set()
    sink.close()
    assert slow.closed
    assert 3 <= len(slow.steps) <= 4  # one may be in its hands, three wait
    assert warnings_of(caplog) == ["slow: is too slow, figures are left out there"]


def test_a_sink_that_hangs_is_left_behind(caplog: pytest.LogCaptureFixture):
    let = threading.Event()
    sink = Background("hung", lambda: Slow(let), waiting=3, last_words_s=0.05)
    sink.write("train", 1, {})
    sink.close()
    assert warnings_of(caplog) == ["hung: did not take its last figures in time"]
    let.set()


def test_a_sink_that_cannot_be_made_in_its_thread(caplog: pytest.LogCaptureFixture):
    def make() -> Slow:
        raise ConnectionError("no such server")

    sink = Background("absent", make)
    sink.write("train", 1, {})
    sink.rewind(0)
    sink.close()
    assert warnings_of(caplog) == [
        "absent: no more figures go there: ConnectionError: no such server"
    ]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_does_not_import_is_refused_before_a_worker_starts(
    name: str,
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / f"{name}.py").write_text("raise ImportError('libgone.so: no such file')\n")
    monkeypatch.syspath_prepend(str(broken))
    monkeypatch.delitem(sys.modules, name, raising=False)
    config = make_config(log={name: {"enabled": True}})
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    assert main(["train", str(path)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert lines == [
        f"error: log.{name}.enabled = true: {name} cannot be imported (ImportError: libgone.so: no "
        f"such file); pip install 'gcg-train[tracking]', or set log.{name}.enabled=false"
    ]
    assert not RunFolder(config.folder).config.exists()
    monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_password_does_not_get_into_the_run_file(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"log.mlflow.tracking_uri.*MLFLOW_TRACKING_PASSWORD"):
        toy_config(tmp_path, log__mlflow={"tracking_uri": "https://me:secret@host/"})


def test_trackers_are_off_unless_asked_for(tmp_path: Path):
    config = toy_config(tmp_path, log__tensorboard=False)
    assert open_sinks(config, RunFolder(config.folder), 0) == []


@needs_mlflow
def test_a_server_that_is_away_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    import socket

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        config = toy_config(
            tmp_path, log__tensorboard=False, log__mlflow={"enabled": True, "tracking_uri": uri}
        )
        folder = RunFolder(config.folder)
        log = RunLog(folder, 0, open_sinks(config, folder, 0))
        log.write("train", 1, {"loss": 1.0})
        log.close()
    (line,) = warnings_of(caplog)
    assert line.startswith("MLflow: no more figures go there: MlflowException: ")
    assert len(read_metrics(folder.metrics)) == 1


@needs_mlflow
def test_a_tracker_run_that_was_deleted_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    config = toy_config(tmp_path)
    folder = RunFolder(config.folder)
    MLflow(config, folder).close()
    first = (read_json(folder.tracking) or {})["mlflow"]
    MLflow(config, folder).close()
    assert (read_json(folder.tracking) or {})["mlflow"] == first
    write_json(folder.tracking, {"mlflow": {**first, "run": "0" * 32}})
    MLflow(config, folder).close()
    assert (read_json(folder.tracking) or {})["mlflow"]["run"] not in ("0" * 32, first["run"])


@pytest.mark.parametrize(
    ("name", "half", "single"),
    [
        ("NVIDIA H100 80GB HBM3", 989.0, 67.0),
        ("NVIDIA H100 PCIe", 756.0, 51.0),
        ("NVIDIA H200", 989.0, 67.0),
        ("NVIDIA A100-SXM4-80GB", 312.0, 19.5),
        ("NVIDIA L40S", 362.0, 91.6),
        ("Tesla V100-SXM2-16GB", 125.0, 15.7),
        ("NVIDIA Z9000", None, None),
        ("A1000 of another maker", None, None),
    ],
)
def test_the_peak_of_a_gpu_is_found_by_its_name(
    name: str, half: float | None, single: float | None
):
    assert published_tflops(name, torch.bfloat16) == half
    assert published_tflops(name, torch.float32) == single


def test_a_cpu_is_measured_without_touching_the_random_numbers():
    before = torch.get_rng_state()
    assert product_tflops(torch.float32) > 1e-4
    assert torch.equal(torch.get_rng_state(), before)


def test_percentiles_are_values_that_occurred():
    values = [float(v) for v in range(1, 101)]
    assert [percentile(values, p) for p in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert percentile([3.0], 50) == percentile([3.0], 99) == 3.0


def test_the_section_is_read_from_a_run_file(tmp_path: Path):
    config = toy_config(tmp_path, log__wandb={"enabled": True, "mode": "online"})
    assert parse_run_config(config.model_dump(mode="json")) == config
    with pytest.raises(ConfigError, match=r"log.wandb.mode"):
        toy_config(tmp_path, log__wandb={"mode": "cloud"})
