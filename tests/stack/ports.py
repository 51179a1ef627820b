"""Ports that nothing listens on, for a stack of its own."""

import socket
from dataclasses import asdict

from stack.place import Ports


def free_ports() -> Ports:
    """They stay free for as long as nobody else asks the system for some."""
    sockets = [socket.socket() for _ in asdict(Ports())]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return Ports(*(each.getsockname()[1] for each in sockets))
    finally:
        for each in sockets:
            each.close()
