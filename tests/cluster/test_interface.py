"""The choice of a network interface, on hosts that have several."""

from __future__ import annotations

import pytest

from launcher.cluster.interface import find_interface, missing, own_interfaces
from launcher.errors import ConfigError
from tests.launcher.toy import toy_config

HOST = {
    "lo": ["127.0.0.1/8", "::1/128"],
    "eth0": ["10.0.0.7/24", "fe80::1/64"],
    "ib0": ["192.168.5.7/16", "fd00::7/64"],
    "down0": [],
}


@pytest.mark.parametrize(
    ("wish", "ray_address", "found"),
    [
        (None, "10.0.0.7", "eth0"),
        (None, "192.168.5.7", "ib0"),
        (None, "fd00::7", "ib0"),
        (None, "127.0.0.3", "lo"),  # any of a loopback's addresses is its own
        (None, "10.0.0.8", None),  # of another host in the network, so not of this one
        (None, "a-name", None),
        ("ib0", "10.0.0.7", "ib0"),
        ("ib1", "10.0.0.7", None),
        ("down0", "10.0.0.7", None),  # without an address
        ("192.168.0.0/16", "10.0.0.7", "ib0"),
        ("fd00::/8", "10.0.0.7", "ib0"),
        ("172.16.0.0/12", "10.0.0.7", None),
    ],
)
def test_the_interface_of_a_host(wish: str | None, ray_address: str, found: str | None):
    assert find_interface(wish, HOST, ray_address) == found


def test_the_line_on_a_node_without_it():
    line = missing("ib1", "10.0.0.7", HOST)
    assert line.startswith("scale.interface = ib1: node 10.0.0.7 has none such")
    assert "eth0 (10.0.0.7/24 fe80::1/64)" in line
    assert "down0 (none)" in line


def test_this_machine_has_a_loopback():
    assert any("127.0.0.1/8" in addresses for addresses in own_interfaces().values())


@pytest.mark.parametrize("value", ["eth0", "bond0.100", "enp1s0f0np0", "10.1.0.0/16", "fd00::/8"])
def test_names_and_networks(tmp_path, value: str):
    assert toy_config(tmp_path, scale__interface=value).scale.interface == value


@pytest.mark.parametrize(
    "value", ["", "a name", "10.0.0.1", "10.0.0.0/40", "x/y", "e" * 16, "^eth"]
)
def test_what_is_neither(tmp_path, value: str):
    with pytest.raises(
        ConfigError, match=r"scale\.interface = .*: is neither the name of a network"
    ):
        toy_config(tmp_path, scale__interface=value)
