"""The session that data at http(s):// are read through: none of it reaches a cloud's metadata.

Whoever runs the server of a data set, or its name, may answer with a redirection, or with an
address, that leads to the machine's own metadata service, which hands out the credentials of its
role. What counts is the address that is connected to, after names and redirections: those of
links and of metadata services are refused, where no data can be. Private addresses are not: many a
store stands at one.
"""

from __future__ import annotations

import base64
import errno
import ipaddress
import netrc
import os
import socket
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from dataloaders.errors import StorageError

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


def login(url: str) -> dict[str, str]:
    """The header that tells a URL's server who asks, from ``~/.netrc`` or the file ``NETRC`` names.

    Raises:
        StorageError: that file is no such list, or others may read it.
    """
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
    except OSError:
        return {}
    except netrc.NetrcParseError as error:
        # Not what it says there, which may be a password.
        raise StorageError(
            f"{error.filename}: cannot be read as netrc (line {error.lineno}, or its permissions); "
            "write `machine HOST login USER password PASSWORD`, and chmod 600"
        ) from None
    user, _, password = known.hosts.get(urlsplit(url).hostname or "", (None, None, None))
    if user is None:
        return {}
    pair = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


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
