"""The session that data at http(s):// are read through: none of it reaches a cloud's metadata.

Whoever runs the server of a data set, or its name, may answer with a redirection, or with an
address, that leads to the machine's own metadata service, which hands out the credentials of its
role. What counts is the address that is connected to, after names and redirections: those of
links and of metadata services are refused, where no data can be. Private addresses are not: many a
store stands at one.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

import aiohttp

# 169.254.169.254 is every cloud's; these are what some have besides.
_METADATA = {
    "fd00:ec2::254",  # AWS
    "fd20:ce::254",  # Google
    "100.100.100.200",  # Alibaba
    "192.0.0.192",  # Oracle
}


async def open_session(**settings: Any) -> aiohttp.ClientSession:
    """What fsspec's HTTP file system asks for; ``settings`` are aiohttp's."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_socket), **settings)


def is_refused(host: str) -> bool:
    """Whether an IP address, as text, is one that no data are read from."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_link_local or mapped.is_multicast or str(mapped) in _METADATA


def _socket(info: Any) -> socket.socket:
    family, kind, protocol, _, place = info
    if is_refused(place[0]):
        raise PermissionError(
            errno.EACCES, f"{place[0]} is a link's or a metadata service's address, not a store's"
        )
    return socket.socket(family=family, type=kind, proto=protocol)
