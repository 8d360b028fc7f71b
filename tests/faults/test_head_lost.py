"""The head dies while the command talks to Ray of its own: it ends soon, and says "go on later"."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cluster.departure import EXIT_RESUME
from launcher.config import RunConfig, dump, parse_run_config
from launcher.storage.run_folder import RunFolder
from tests.launcher.conftest import run_tree
from tests.launcher.test_kill_resume import Command, last_step, saved_step

from .ray_nodes import Nodes, ray_environment, ray_nodes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def start(packed: Path, place: Path, nodes: Nodes, least: int) -> tuple[RunConfig, Command]:
    """A run of ``least`` to four workers, in a cluster with room for one."""
    config = parse_run_config(
        run_tree(
            packed,
            place / "runs",
            data={"val": None, "streams": 4, "global_batch": 4, "contrast_group": 1},
            optim={"steps": 10_000},
            engine={"micro_batch": 1, "precision": "fp32"},
            scale={"num_workers": [least, 4], "settle_s": 2},
        )
    )
    path = place / "run.yaml"
    path.write_text(dump(config))
    environment = {**nodes.environment, "RAY_ADDRESS": nodes.address}
    return config, Command.start(path, environment)


def lose_head(nodes: Nodes, command: Command) -> None:
    for process in (nodes.gcs(), nodes.raylet(0)):
        process.kill()
    code, said = command.finish()
    assert code == EXIT_RESUME, said
    assert "the Ray cluster was lost" in said
    assert "run the same command again to continue" in said
    assert "Traceback" not in said


def test_while_seats_for_growth_are_asked_for(
    packed: Path, tmp_path: Path, commands: list[Command]
):
    with ray_nodes(ray_environment()) as nodes:
        config, command = start(packed, tmp_path, nodes, least=1)
        commands.append(command)
        folder = RunFolder(config.folder)
        command.wait_for(lambda: last_step(folder) > saved_step(folder) >= 2, "a checkpoint")
        lose_head(nodes, command)


def test_while_there_is_no_room(packed: Path, tmp_path: Path, commands: list[Command]):
    with ray_nodes(ray_environment()) as nodes:
        _, command = start(packed, tmp_path, nodes, least=2)
        commands.append(command)
        assert command.process.stderr is not None
        for line in command.process.stderr:
            if "waiting for more" in line:
                break
        lose_head(nodes, command)
