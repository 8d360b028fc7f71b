"""`gcg k8s drain`, a Pod's preStop, on a real cluster with a token: nodes on loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.ray_nodes import Nodes, ray_environment, ray_nodes
from tests.launcher.test_ray_job import PATIENCE_S, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

IP = "127.0.0.2"
# Holds the CPU of a node until its standard input ends.
HOLDER = """
import sys, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=1)
class Holder:
    def there(self):
        return True

holder = Holder.options(scheduling_strategy=On(sys.argv[2], soft=False)).remote()
ray.get(holder.there.remote())
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with ray_nodes(ray_environment()) as found:
        yield found


def drain(nodes: Nodes, seconds: int, ip: str = IP) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "launcher.cli", "k8s", "drain", f"--seconds={seconds}"]
    environment = {**nodes.environment, "RAY_ADDRESS": nodes.address, "POD_IP": ip}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def outcome(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, (out + err).strip()


@contextmanager
def held(nodes: Nodes, node: str) -> Iterator[None]:
    """The node's CPU is taken, and let go in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, nodes.address, node],
        env=nodes.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield  # leaving the block closes its standard input, and waits


def test_it_waits_until_the_node_is_empty(nodes: Nodes):
    node = nodes.add()
    with held(nodes, node):
        waiting = drain(nodes, seconds=120)
        # Of a node that goes Ray tells others; the drain has been asked for by then.
        wait_for(lambda: is_going(nodes, node), "a node that is drained")
        assert waiting.poll() is None
    code, told = outcome(waiting)
    assert (code, told) == (0, f"{IP}: the node has left the cluster")
    assert node not in nodes.alive()


def is_going(nodes: Nodes, node: str) -> bool:
    script = (
        "import sys; from ray._raylet import GcsClient; "
        "from ray.core.generated import autoscaler_pb2 as pb; "
        "state = pb.GetClusterResourceStateReply(); "
        "text = GcsClient(address=sys.argv[1]).get_cluster_resource_state(); "
        "state.ParseFromString(text); "
        "print(*(n.node_id.hex() for n in state.cluster_resource_state.node_states "
        "if n.status == pb.NodeStatus.DRAINING))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, nodes.address],
        env=nodes.environment, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return node in done.stdout.split()


def test_it_ends_when_the_time_is_up(nodes: Nodes):
    node = nodes.add()
    with held(nodes, node):
        code, told = outcome(drain(nodes, seconds=3, ip="127.0.0.3"))
    assert code == 0
    # At the end of the time Ray itself gives the node up; either may be seen first.
    assert told in (
        "127.0.0.3: something still runs here after 3 s",
        "127.0.0.3: the node has left the cluster",
    )


def test_an_address_without_a_node(nodes: Nodes):
    code, told = outcome(drain(nodes, seconds=3, ip="127.0.0.77"))
    assert code == 2
    assert "--ip 127.0.0.77: Ray at" in told


def test_a_cluster_that_is_gone():
    """Pods of a whole cluster that ends are not held up."""
    with ray_nodes(ray_environment()) as nodes:
        wait_for(lambda: len(nodes.alive()) == 1, "the head")
        nodes.gcs().kill()
        code, told = outcome(drain(nodes, seconds=60, ip="127.0.0.1"))
    assert code == 0
    assert "does not answer any more" in told
