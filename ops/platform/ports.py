"""Ports for servers of a test."""

import contextlib
import random
import socket


def free_ports(count):
    """Ports that nobody listens on, below those that the system gives away."""
    held, ports = [], []
    while len(ports) < count:
        port = random.SystemRandom().randint(12000, 32000)
        with contextlib.suppress(OSError):
            s = socket.socket()
            s.bind(("127.0.0.1", port))
            held.append(s)
            ports.append(port)
    for s in held:
        s.close()
    return ports
