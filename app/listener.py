"""The socket the API listens on, opened before anything else is started, so that a taken port is said at once."""

from __future__ import annotations

import socket

from npt_core.errors import NPTError

BACKLOG = 1024


class ListenError(NPTError):
    """The address cannot be listened on."""

    code = "cannot-listen"


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 picks a free one.

    Raises:
        ListenError: the address is taken, unknown or not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ListenError(f"NPT_HOST is {host!r}, which is no address or name of this machine ({error})") from error
    family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # now, not when the server is up: only a listening socket keeps others away
    except OSError as error:
        listener.close()
        raise ListenError(
            f"cannot listen on {host} port {port} ({error.strerror}); stop what uses it, "
            "or choose another port with NPT_PORT (0 picks a free one) or another address with NPT_HOST"
        ) from error
    return listener
