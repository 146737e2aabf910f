"""Whether a host is this machine or in its own network: by its name, and by the address that a connection is made to.

A name may lead to any address, and to another one the next time it is looked up. So a name is looked up once, its addresses
are judged, and the connection is made to one that was judged. A proxy looks names up itself: then the names alone are judged.
"""

from __future__ import annotations

import importlib
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

__all__ = ["Forbidden", "is_here", "is_near", "watch_connections"]

STAND_INS = ipaddress.ip_network("198.18.0.0/15")
"""RFC 2544. Tunnels that take over a machine's network answer names with these, whatever the name's own address is."""


class Forbidden(Exception):
    """A request would have led where none may go."""


def is_here(host: str) -> bool:
    """Whether a host is this machine or in its own network, as far as its name tells."""
    host = host.lower().strip("[]").rstrip(".")
    if host in ("", "localhost") or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host.replace(".", "").isdigit() or host.startswith("0x")  # 127.1, 2130706433: spellings of numbers
    return address in STAND_INS or is_near(host)


def is_near(address: str) -> bool:
    """Whether an address that a name has is one of this machine or of its own network."""
    found: Any = ipaddress.ip_address(address.partition("%")[0])
    if found.version == 6:
        translated = ipaddress.ip_address(int(found) & 0xFFFFFFFF) if found in ipaddress.ip_network("64:ff9b::/96") else None
        found = found.ipv4_mapped or found.sixtofour or translated or found
    if found in STAND_INS:
        return False
    return not found.is_global or found.is_multicast or is_own(str(found))


def is_own(address: str) -> bool:
    """Whether an address is one of this machine's: then what is sent there comes from there. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return str(probe.getsockname()[0]) == address
    except OSError:
        return False


def watch_connections(session: Any, judged: Callable[[str, int], bool]) -> None:
    """Have a session of the Hub's client judge addresses before it connects.

    Args:
        session: The session; what it sends through a proxy stays as it is.
        judged: Whether the addresses of a host and port are to be judged.
    """
    for transport in (session._transport, *session._mounts.values()):
        pool: Any = getattr(transport, "_pool", None)
        if type(pool).__name__ == "ConnectionPool":
            pool._network_backend = Judged(
                pool._network_backend, judged, importlib.import_module(type(pool).__module__.partition(".")[0])
            )


class Judged:
    """How a session's pool of connections reaches the network; all but ``connect_tcp`` is as it was."""

    def __init__(self, inner: Any, judged: Callable[[str, int], bool], errors: Any) -> None:
        self.inner, self.judged, self.errors = inner, judged, errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def connect_tcp(self, host: str, port: int, *words: Any, **more: Any) -> Any:
        """A connection to a host, at an address that may be reached.

        Raises:
            Forbidden: It has none.
        """
        if not self.judged(host, port):
            return self.inner.connect_tcp(host, port, *words, **more)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise self.errors.ConnectError(str(error)) from error
        addresses = dict.fromkeys(str(one[4][0]) for one in found)
        far = [one for one in addresses if not is_near(one)]
        if not far:
            raise Forbidden(
                f"it leads to {host}, which is {next(iter(addresses))}: this machine or its network, not the endpoint"
            )
        for address in far[:-1]:
            try:
                return self.inner.connect_tcp(address, port, *words, **more)
            except (self.errors.ConnectError, self.errors.ConnectTimeout):
                continue
        return self.inner.connect_tcp(far[-1], port, *words, **more)
