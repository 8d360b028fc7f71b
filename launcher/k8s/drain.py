"""A Pod's `preStop`: tell Ray that this node is about to go, and wait until it is empty.

All ranks of the run then leave after the step they are at, with a checkpoint, and others go on
elsewhere (docs/reliability.md). A drained node's raylet ends by itself once nothing runs there.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from launcher.errors import UserError

# Of a node in the store of Ray's head (``GcsNodeInfo.GcsNodeState``).
_ALIVE = 0
# What the head has for an answer. Where the whole cluster goes, it may be gone already.
_ANSWER_S = 10
_POLL_S = 1.0


def drain(seconds: int, address: str | None = None, ip: str | None = None) -> str:
    """Drain this node; return when it has left the cluster, or when the time is up.

    Args:
        address: of the head; by default RAY_ADDRESS.
        ip: of this node; by default POD_IP, or what Ray takes it to be.

    Returns:
        What has happened, for a person.

    Raises:
        UserError: there is no cluster to ask, or it has no such node.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.util import get_node_ip_address

    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise UserError("RAY_ADDRESS: is not set; run this in a Pod of KubeRay, or give --address")
    if not _answers(address):
        return f"Ray at {address} does not answer any more"
    deadline = time.monotonic() + seconds
    ip = ip or os.environ.get("POD_IP") or get_node_ip_address()
    try:
        client = GcsClient(address=address)
        node = _node(client, ip)
        if node is None:
            raise UserError(f"--ip {ip}: Ray at {address} has no such node that is alive")
        _ask(client, node, seconds)
        while time.monotonic() < deadline:
            if not _answers(address):
                return f"{ip}: Ray at {address} does not answer any more"
            if _node(client, ip) != node:
                return f"{ip}: the node has left the cluster"
            time.sleep(_POLL_S)
    except (RuntimeError, OSError) as error:  # Ray's RpcError is a RuntimeError
        return f"{ip}: Ray at {address} does not answer any more ({str(error).splitlines()[0]})"
    return f"{ip}: something still runs here after {seconds} s"


def _answers(address: str) -> bool:
    # Before anything else: without a head Ray's client waits for a minute and ends the process.
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except (OSError, ValueError):
        return False
    return True


def _node(client: Any, ip: str) -> str | None:
    """Ray's id of the node that is alive at an address."""
    nodes = client.get_all_node_info(timeout=_ANSWER_S)
    for node in nodes.values():
        if node.state == _ALIVE and node.node_manager_address == ip:
            return node.node_id.hex()
    return None


def _ask(client: Any, node: str, seconds: int) -> None:
    from ray.core.generated import autoscaler_pb2

    reasons: Any = autoscaler_pb2
    accepted, why = client.drain_node(
        node,
        reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "the Pod is about to end",
        int((time.time() + seconds) * 1000),
        timeout=_ANSWER_S,
    )
    if not accepted:
        raise UserError(f"Ray does not drain node {node}: {why}")
