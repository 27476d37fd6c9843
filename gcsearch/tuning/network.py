"""How the processes of a trial on several machines find each other."""

from __future__ import annotations

import os
import socket
import struct
import sys

from ray.train.torch import TorchConfig

SIOCGIFADDR = 0x8915
"""Linux's request for the address of a network interface."""


def interface_of(address: str) -> str | None:
    """Name of this machine's network interface that has an IPv4 address; None if there is none, or not on Linux."""
    if sys.platform != "linux":
        return None
    from fcntl import ioctl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def use_interface_of_node() -> None:
    """Let gloo talk over the interface by which Ray's nodes reach this one, unless the user says otherwise.

    By itself gloo takes the address of the machine's name, which on many is 127.0.0.1 or 127.0.1.1: processes on other
    machines are told to connect to themselves.
    """
    import ray

    name = interface_of(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    if name is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray Train's own, with the interface set first."""

    def on_start(self, worker_group, backend_config):  # type: ignore[no-untyped-def]
        worker_group.execute(use_interface_of_node)
        super().on_start(worker_group, backend_config)


class NodeTorchConfig(TorchConfig):
    """Process group over the network that Ray uses."""

    @property
    def backend_cls(self) -> type:
        return _Backend
