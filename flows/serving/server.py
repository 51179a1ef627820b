"""The endpoint as a process: where it listens, what it says, how it ends."""

import ipaddress
import logging
import os
import socket
from collections.abc import Sequence

import uvicorn

from alter_core.errors import AlterError, WorkspaceError
from flows.serving.app import Endpoint, Limits
from flows.serving.request_log import RequestLog

TOKEN = "ALTER_ENDPOINT_TOKEN"
GRACE_SECONDS = 5.0
CONNECTIONS = 2048
log = logging.getLogger("flows.serving")


def serve(domains: Sequence[str], host: str, port: int, limits: Limits, requests: RequestLog | None = None) -> None:
    """Answer for the champions of `domains` until SIGTERM or Ctrl-C; what was taken in is answered first.

    Raises AlterError where it would listen beyond loopback without a token, the port is taken, or a champion cannot be
    loaded.
    """
    token = os.environ.get(TOKEN) or None
    if token is None and not is_loopback(host):
        raise AlterError(
            f"{host} is reached from other machines: set {TOKEN} to a secret that callers send as a bearer token, or "
            "listen on 127.0.0.1"
        )
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    log.setLevel(logging.INFO)
    with bound(host, port) as listener:
        server = server_of(Endpoint(list(domains), limits, token, requests))
        log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, listener.getsockname()[1])
        server.run(sockets=[listener])


def server_of(endpoint: Endpoint) -> uvicorn.Server:
    """What speaks HTTP: on SIGTERM it takes no more requests, and answers those that it has."""
    return uvicorn.Server(
        uvicorn.Config(
            endpoint.app,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=int(endpoint.limits.seconds + GRACE_SECONDS),
        )
    )


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound(host: str, port: int) -> socket.socket:
    """A socket at the address, which nobody is answered on yet. Raises WorkspaceError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise WorkspaceError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --host and --port"
        ) from None
    return listener
