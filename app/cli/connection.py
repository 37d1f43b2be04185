"""A client of the server that was named, or one clear error."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from app.cli.exits import UNREACHABLE, CommandError, usage
from app.cli.progress import Sending

if TYPE_CHECKING:
    from app.client import Client

PROBE_S = 10.0
_MODEL = re.compile(r"model_[0-9a-z]{26}")


@contextlib.contextmanager
def connected(url: str, key: str | None) -> Iterator[Client]:
    """Speak to a server; whether one is there is asked first, since calls that may be repeated are, for a while.

    Raises:
        CommandError: Nobody answers there, or somebody else does.
    """
    import httpx

    from app.client import Client

    try:
        answer = httpx.get(f"{url.rstrip('/')}/livez", timeout=PROBE_S, headers={"Accept": "application/json"})
        alive = answer.json().get("status") == "alive"
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise usage(f"{url!r} is no address of a server ({error}); write it like http://127.0.0.1:8000.") from None
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise CommandError(
            f"No server answers at {url} ({reason}). Start one with `npt serve`, say where it is with --url or "
            "NPT_URL, or use no server: `npt tune --local`.",
            "unreachable",
            UNREACHABLE,
        ) from None
    except (ValueError, AttributeError):
        alive = False
    if not alive:
        raise CommandError(
            f"What answers at {url} is no NPT Service; --url or NPT_URL says where it is.", "unreachable", UNREACHABLE
        )
    sending = Sending()
    with Client(url.rstrip("/"), key=key, on_sent=sending) as client:
        try:
            yield client
        finally:
            sending.end()


def model_id(client: Client, name: str) -> str:
    """The id of a model by its id or by an alias.

    Raises:
        CommandError: There is neither.
    """
    if _MODEL.fullmatch(name):
        return name
    found = client.aliases().get(name)
    if found is None:
        raise CommandError(
            f"There is no model and no alias {name!r}; `npt models list` and `npt aliases list` show them.",
            "not-found",
        )
    return found
