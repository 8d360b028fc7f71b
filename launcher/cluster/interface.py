"""Through which network interface the workers' collectives go.

The workers find each other at the address by which Ray knows rank 0's node. For the data gloo binds
to whatever the machine's own name resolves to, on many hosts 127.0.1.1, where no other machine
reaches it. So unless told otherwise it gets the interface with the node's Ray address. NCCL chooses
among all interfaces by itself, perhaps several; it is only told what the run file says.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from launcher.cluster.elastic import worker_resources
from launcher.config import RunConfig
from launcher.errors import PreflightError

# Interface names with their addresses, each as address/prefix.
Interfaces = Mapping[str, Sequence[str]]


def own_interfaces() -> dict[str, list[str]]:
    """Those of this machine that are up."""
    import psutil

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found: dict[str, list[str]] = {}
    for name, addresses in psutil.net_if_addrs().items():
        if name in up:
            found[name] = [
                str(ip_interface(f"{each.address.partition('%')[0]}/{_prefix(each.netmask)}"))
                for each in addresses
                if each.family in (socket.AF_INET, socket.AF_INET6) and each.netmask
            ]
    return found


def _prefix(netmask: str) -> str:
    if ":" not in netmask:
        return netmask
    return str(bin(int(ip_address(netmask))).count("1"))


def find_interface(wish: str | None, interfaces: Interfaces, ray_address: str) -> str | None:
    """The interface to use on a machine, None if it has no such.

    Args:
        wish: a name, or a network as ``10.1.0.0/16``; None: the one with ``ray_address``.
    """
    if wish is not None and "/" not in wish:
        return wish if interfaces.get(wish) else None
    for name, addresses in interfaces.items():
        if any(_fits(address, wish, ray_address) for address in addresses):
            return name
    return None


def _fits(address: str, wish: str | None, ray_address: str) -> bool:
    own = ip_interface(address)
    if wish is not None:
        return own.ip in ip_network(wish, strict=False)
    try:
        wanted = ip_address(ray_address)
    except ValueError:  # a name
        return False
    # Of a loopback any address is its own.
    return own.ip == wanted or (own.is_loopback and wanted in own.network)


def use_interface(wish: str | None) -> None:
    """Let this worker's collectives use an interface; before ``torch.distributed`` is initialised.

    What the environment says already stands, unless the run file has a wish.

    Raises:
        RuntimeError: this machine does not have what is wished for.
    """
    import ray

    address, there = ray.util.get_node_ip_address(), own_interfaces()
    name = find_interface(wish, there, address)
    if wish is None:
        if name is not None:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        return
    if name is None:
        raise RuntimeError(missing(wish, address, there))
    os.environ["GLOO_SOCKET_IFNAME"] = name
    os.environ["NCCL_SOCKET_IFNAME"] = f"={name}"  # without the sign: all that begin so


def missing(wish: str, node: str, interfaces: Interfaces) -> str:
    """The line on a node that does not have what is wished for."""
    have = ", ".join(f"{name} ({' '.join(there) or 'none'})" for name, there in interfaces.items())
    return (
        f"scale.interface = {wish}: node {node} has none such with an address; it has {have}: name "
        "one that every node has, or their common network as 10.1.0.0/16"
    )


def check_interfaces(config: RunConfig) -> None:
    """Ask every node that can hold a worker whether it has the interface. Ray must be initialised.

    Raises:
        PreflightError: a line for each node that has not.
    """
    wish = config.scale.interface
    if wish is None:
        return
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look: Any = ray.remote(num_cpus=0)(own_interfaces)
    need = worker_resources(config)
    asked = {
        node["NodeManagerAddress"]: look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in ray.nodes()
        if node["Alive"] and all(node["Resources"].get(k, 0) >= v for k, v in need.items())
    }
    found = dict(zip(asked, ray.get(list(asked.values())), strict=True))
    problems = [
        missing(wish, node, there)
        for node, there in found.items()
        if find_interface(wish, there, node) is None
    ]
    if problems:
        raise PreflightError(problems)
