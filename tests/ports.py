"""Ports for peers that must be told where to listen."""

from __future__ import annotations

import random
import socket

# Below those that systems give to outgoing connections: between the look and the listening, one of another test could take it.
LOW, HIGH = 15_000, 30_000


def free_port() -> int:
    """A port of the loopback on which nobody listens."""
    dice = random.SystemRandom()  # workers that test at the same time look in different places
    while True:
        port = dice.randrange(LOW, HIGH)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
