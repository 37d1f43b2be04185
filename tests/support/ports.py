"""Ports of loopback that nobody has."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One that nobody has now. Whoever takes it next has it: bind it at once, and hold the socket where that can be."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
