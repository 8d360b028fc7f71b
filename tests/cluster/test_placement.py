"""Where workers are put on several nodes: real Ray nodes on loopback, each with a home of its own.

Workers of a node are neighbours by rank and share one download of each shard; nodes do not need
each other's.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from launcher.config import RunConfig
from tests.conftest import ROOT
from tests.dataloaders.s3_server import S3
from tests.dataloaders.shard_fixtures import pack_clips
from tests.faults.ray_nodes import ray_environment, ray_nodes
from tests.launcher.toy import toy_config

PATIENCE_S = 240

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def look(settings: dict[str, str]) -> None:
    """In every worker: who it is, whether all are joined, and all shards read."""
    import ray
    import torch
    import torch.distributed as dist
    from ray.train import get_context

    from dataloaders.shard_source import ShardSource

    rank, world = dist.get_rank(), dist.get_world_size()
    ranks = torch.tensor([rank])
    dist.all_reduce(ranks)
    with ShardSource(settings["place"]) as source:  # through the node's own cache
        keys = [
            source.read(number, entry).key
            for number in range(len(source.shards))
            for entry in source.entries(number)
        ]
    seen = {
        "rank": rank,
        "world": world,
        "sum": int(ranks),
        "local": get_context().get_local_rank(),
        "node": get_context().get_node_rank(),
        "address": ray.util.get_node_ip_address(),
        "home": os.environ["HOME"],
        "keys": keys,
        "environment": {
            name: os.environ.get(name)
            for name in ("LOCAL_RANK", "MASTER_ADDR", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
        },
    }
    (Path(settings["out"]) / f"{rank}.json").write_text(json.dumps(seen))


def drive(environment: dict[str, str], config: RunConfig, settings: dict[str, str]) -> None:
    """The driver, in a process of its own: Ray reads how to authenticate when it is imported."""
    os.environ.update(environment)
    import ray
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchTrainer

    from launcher.cluster.backend import torch_backend
    from launcher.cluster.interface import check_interfaces
    from launcher.cluster.launch import placement
    from launcher.errors import PreflightError

    ray.init(log_to_driver=False)
    missing = config.model_copy(
        update={"scale": config.scale.model_copy(update={"interface": "none0"})}
    )
    with pytest.raises(PreflightError) as caught:
        check_interfaces(missing)
    assert len(caught.value.lines) == 2  # the nodes that can hold a worker
    assert all("scale.interface = none0: node " in line for line in caught.value.lines)
    check_interfaces(config)
    TorchTrainer(
        look,
        train_loop_config=settings,
        torch_config=torch_backend(config),
        scaling_config=placement(config),
        run_config=RayRunConfig(name="look", storage_path=settings["out"]),
    ).fit()


def test_workers_of_a_node_are_neighbours_and_share_a_download(s3: S3, tmp_path: Path):
    place = s3.upload(pack_clips(tmp_path / "clips", [1, 1, 1]).folder, "shared")  # two shards
    s3.proxy.clear()
    homes = [tmp_path / "home-0", tmp_path / "home-1"]
    for home in homes:
        home.mkdir()
    environment = {
        **ray_environment(), **s3.env(), "PYTHONPATH": str(ROOT), "HOME": str(homes[0]),
        "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    environment.pop("XDG_CACHE_HOME", None)
    config = toy_config(tmp_path, scale__num_workers=4, scale__interface="127.0.0.0/8")
    out = tmp_path / "out"
    out.mkdir()
    with ray_nodes(environment, cpus=2) as nodes:
        nodes.add(HOME=str(homes[1]))
        driver = multiprocessing.get_context("spawn").Process(
            target=drive,
            args=(
                {**environment, "RAY_ADDRESS": nodes.address},
                config,
                {"place": place, "out": str(out)},
            ),
        )
        driver.start()
        driver.join(PATIENCE_S)
        assert driver.exitcode == 0
    seen = [json.loads((out / f"{rank}.json").read_text()) for rank in range(4)]
    check_ranks(seen)
    assert [each["keys"] for each in seen] == [["v000", "v001", "v002"]] * 4
    for number in range(2):
        assert s3.proxy.gets(f"shard-{number:06d}.tar") == 2  # once a node, not once a worker
    for home in homes:
        assert len(list((home / ".cache" / "gcg-train" / "shards").glob("*.tar"))) == 2


def check_ranks(seen: list[dict[str, Any]]) -> None:
    assert [each["rank"] for each in seen] == [0, 1, 2, 3]
    assert all(each["world"] == 4 and each["sum"] == 6 for each in seen)
    assert [each["node"] for each in seen] == [0, 0, 1, 1]
    assert [each["local"] for each in seen] == [0, 1, 0, 1]
    assert [each["environment"]["LOCAL_RANK"] for each in seen] == ["0", "1", "0", "1"]
    addresses = [each["address"] for each in seen]
    assert addresses[0] == addresses[1] != addresses[2] == addresses[3]
    assert len({each["home"] for each in seen}) == 2
    for each in seen:
        assert each["environment"]["MASTER_ADDR"] == addresses[0]  # by which Ray knows the node
        assert each["environment"]["GLOO_SOCKET_IFNAME"] == "lo"
        assert each["environment"]["NCCL_SOCKET_IFNAME"] == "=lo"
