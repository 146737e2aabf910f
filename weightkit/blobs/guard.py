"""Where requests of the Hub's client may lead, and which of its failures it takes up again.

A server chooses where a redirect leads. Hooks on the client's session see every request, redirected ones too; they act only
while weightkit asks, so that who uses the client beside it is not concerned.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from weightkit.blobs.near import Forbidden, is_here, watch_connections
from weightkit.core.bound import bound
from weightkit.core.events import BytesFetched, tell

__all__ = ["Forbidden", "asking", "install", "refusal", "watch"]

ASKING: ContextVar[bool] = ContextVar("asking", default=False)

PORTS = {"http": 80, "https": 443}

HUB = "huggingface.co"

BUSY = (500, 502, 503, 504)
"""Answers after which the same request is made again."""


XET = ("X-Xet-Hash", "X-Xet-Refresh-Route")
"""What an answer says of a file's place in the Xet store, from which code that no hook sees would fetch it."""


def asking() -> AbstractContextManager[None]:
    """Requests of this thread are weightkit's."""
    return bound(ASKING, True)


def refusal(url: str, endpoint: str) -> str:
    """Why nothing is asked at an address; empty where it may be asked.

    Args:
        url: The address.
        endpoint: The Hub, or the mirror that the user has set: it may be anywhere.
    """
    to, home = urlsplit(url), urlsplit(endpoint)
    if (to.scheme, to.hostname, to.port) == (home.scheme, home.hostname, home.port):
        return ""
    where = f"{to.scheme}://{to.hostname}"
    if to.scheme != "https" and (to.scheme, home.scheme) != ("http", "http"):
        return f"it leads to {where}, which is no https"
    if is_here(to.hostname or ""):
        return f"it leads to {where}, an address of this machine or its network that is not the endpoint"
    return ""


def install(hub: Any) -> None:
    """Put the hooks on the client's session, once; a session that the user has made stays his."""
    http = importlib.import_module("huggingface_hub.utils._http")
    make: Callable[[], Any] = getattr(http, "_GLOBAL_CLIENT_FACTORY", http.default_client_factory)
    if getattr(make, "watched", False):
        return

    def watched() -> Any:
        return watch(make(), lambda: str(hub.constants.ENDPOINT))

    watched.watched = True  # type: ignore[attr-defined]
    hub.set_client_factory(watched)
    for handler in logging.getLogger("huggingface_hub").handlers:
        handler.addFilter(quiet)


def watch(session: Any, endpoint: Callable[[], str]) -> Any:
    """A session of the Hub's client, with the hooks.

    Args:
        session: The session.
        endpoint: Says the Hub, or the mirror that the user has set.
    """
    errors = importlib.import_module(type(session).__module__.partition(".")[0])
    hooks = {name: list(found) for name, found in session.event_hooks.items()}
    hooks["request"] = [*hooks.get("request", []), lambda request: look_at(request, endpoint())]
    hooks["response"] = [*hooks.get("response", []), lambda response: take_up(response, errors, endpoint())]
    session.event_hooks = hooks
    watch_connections(session, lambda host, port: ASKING.get() and (host, port) != place_of(endpoint()))
    return session


def place_of(url: str) -> tuple[str | None, int | None]:
    """Host and port of an address."""
    found = urlsplit(url)
    return found.hostname, found.port or PORTS.get(found.scheme)


def quiet(record: logging.LogRecord) -> bool:
    """Whether the client says something: not of what it tries again, with addresses that may be signed."""
    return not ASKING.get() or record.levelno >= logging.ERROR


def look_at(request: Any, endpoint: str) -> None:
    """See where a request leads.

    Raises:
        Forbidden: Where none may go.
    """
    if ASKING.get() and (why := refusal(str(request.url), endpoint)):
        raise Forbidden(why)


def take_up(response: Any, errors: Any, endpoint: str) -> None:
    """Have the client make a request again that it would give up: of a busy server, of a connection that was reset.

    Raises:
        Forbidden: The answer sends the client to a Xet store where none may be.
    """
    if not ASKING.get():
        return
    if urlsplit(endpoint).hostname != HUB:
        for name in XET:
            response.headers.pop(name, None)
    if (store := response.headers.get("X-Xet-Cas-Url")) and (why := refusal(store, endpoint)):
        raise Forbidden(why)
    if response.status_code in BUSY and response.request.method in ("GET", "HEAD"):
        raise errors.ConnectError(f"the server answers {response.status_code}", request=response.request)
    if response.request.method == "GET":
        response.stream = steady(response.stream, errors)


def steady(body: Any, errors: Any) -> Any:
    """The same stream; a reset of its connection is told as an end that came too early, which the client resumes from."""

    class Steady(errors.SyncByteStream):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            try:
                for chunk in body:
                    tell(BytesFetched("", 0, 0))  # the client hands on ten megabytes at once: a run may have ended meanwhile
                    yield chunk
            except errors.ReadError as error:
                raise errors.RemoteProtocolError(str(error) or "the connection was reset") from error

        def close(self) -> None:
            body.close()

    return Steady()
