"""The Hub's own client: imported with the first address, watched, and what it raises told in one line."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from weightkit.blobs.guard import Forbidden, asking, install
from weightkit.blobs.reads import LATER, PAUSE_SECONDS, TRIES, of_the_network
from weightkit.core.errors import FormatError, PlanError, WeightkitError
from weightkit.core.installed import adding

__all__ = ["REQUIREMENT", "client", "patiently", "plain", "told"]

REQUIREMENT = "huggingface_hub>=1.1"
"""As setup.cfg has it. What it is for: ``hf_hub_download(tqdm_class=)``, a session with hooks, one commit of many files."""

SECRET = re.compile(r"hf_\w+")


def client() -> Any:
    """The Hub's client.

    Raises:
        WeightkitError: It is not installed.
    """
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError as error:
        raise WeightkitError(
            f"huggingface_hub, which names on the Hub need, is not installed; install it: {adding(REQUIREMENT)}"
        ) from error
    if not hasattr(huggingface_hub, "set_client_factory"):
        found = getattr(huggingface_hub, "__version__", "an old one")
        raise WeightkitError(f"huggingface_hub {found} is too old for names on the Hub; install a newer: {adding(REQUIREMENT)}")
    install(huggingface_hub)
    return huggingface_hub


@contextmanager
def told(name: str, doing: str = "fetched") -> Iterator[None]:
    """What the client raises, in one line; a token is in none. ``doing`` is what could not be done.

    Raises:
        PlanError: There is no such thing, or it may not be had.
        FormatError: The Hub is not reached, or what it says makes no sense.
    """
    hub = client()
    errors = hub.errors
    try:
        with asking():
            yield
    except Forbidden as error:
        raise FormatError(name, f"is not fetched: {error}") from error
    except errors.GatedRepoError as error:
        raise PlanError(
            f"{name}: the Hub asks for a token, or this one may not read it", hint="hf auth login, or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise PlanError(f"{name}: there is no such revision") from error
    except errors.LocalEntryNotFoundError as error:
        raise offline(name, error) from error
    except errors.EntryNotFoundError as error:
        raise PlanError(f"{name}: there is no such file in the repository") from error
    except errors.RepositoryNotFoundError as error:
        raise PlanError(
            f"{name}: the Hub has no such repository, or it is private", hint="hf auth login, or set HF_TOKEN, if it is yours"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise offline(name, error) from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise PlanError(f"{name}: the Hub refuses the token", hint="hf auth login, or set HF_TOKEN") from error
        raise FormatError(name, f"the Hub answers {status or plain(error)}; try again later") from error
    except errors.HFValidationError as error:
        raise PlanError(f"{name}: is no name on the Hub") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise FormatError(name, f"cannot be {doing}: {plain(error)}; try again") from error
    except Exception as error:
        if not of_the_network(error):
            raise
        raise FormatError(name, f"cannot be {doing}: {plain(error)}; try again") from error


def offline(name: str, error: Exception) -> PlanError:
    """What is said where nothing may be fetched, or nothing is reached, and the cache has not what is wanted."""
    return PlanError(
        f"{name}: is not in the cache, and the Hub is not reached ({plain(error)})",
        hint="unset HF_HUB_OFFLINE or connect to the network, then the same command",
    )


def plain(error: Exception) -> str:
    """The first line of an error, without secrets and signatures."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SECRET.sub("hf_...", re.sub(r"\?\S+", "", line))[:200].rstrip(".")


def patiently(name: str, ask: Callable[[Any], Any]) -> Any:
    """What the client answers; where the Hub is not reached or has no time, it is asked again.

    Raises:
        PlanError: There is no such thing, or it may not be had.
        FormatError: The Hub is not reached.
    """
    hub = client()
    for last in (*[False] * (TRIES - 1), True):
        try:
            with told(name):
                return ask(hub)
        except WeightkitError as error:
            if last or hub.constants.HF_HUB_OFFLINE or not passing(error.__cause__, hub.errors):
                raise
        time.sleep(PAUSE_SECONDS)
    raise AssertionError


def passing(error: BaseException | None, errors: Any) -> bool:
    """Whether what the client raised may be gone in a moment."""
    if isinstance(error, errors.RepositoryNotFoundError | errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    ):
        return False
    if isinstance(error, errors.HfHubHTTPError):
        return getattr(getattr(error, "response", None), "status_code", 500) in LATER
    if isinstance(error, errors.LocalEntryNotFoundError):
        return error.__cause__ is not None and passing(error.__cause__, errors)
    return error is not None and of_the_network(error)
