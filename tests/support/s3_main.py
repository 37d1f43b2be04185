"""An S3 server of the tests: moto behind real HTTP, in a process of its own.

Conditions are judged and objects written as one step, which moto by itself does not promise to threads. With
`--no-conditions` it is a server that has never heard of conditional writes; `--tls=CERT,KEY` has it speak HTTPS;
`--deny=PART` has it refuse writes to keys with that in their name, as a policy of the bucket does.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class OneByOne:
    """Reads a whole request, then lets it through alone."""

    def __init__(self, app: Any, conditions: bool, deny: str | None) -> None:
        self._app, self._conditions, self._deny = app, conditions, deny
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        if not environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read(length)
            if len(body) < length:
                raise ConnectionError("the client went away")
            environ["wsgi.input"] = io.BytesIO(body)
        if not self._conditions and environ["REQUEST_METHOD"] in ("PUT", "POST"):
            environ.pop("HTTP_IF_MATCH", None)
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if self._deny and environ["REQUEST_METHOD"] in ("PUT", "POST") and self._deny in environ["PATH_INFO"]:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"]
        with self._lock:
            return list(self._app(environ, start_response))


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log(self, *_: object) -> None:
        """Tests ask, nobody reads."""


def main() -> None:
    deny = next((option.removeprefix("--deny=") for option in sys.argv if option.startswith("--deny=")), None)
    app = OneByOne(DomainDispatcherApplication(create_backend_app), "--no-conditions" not in sys.argv, deny)
    tls = next((option.removeprefix("--tls=").split(",") for option in sys.argv if option.startswith("--tls=")), None)
    server = make_server(
        "127.0.0.1",
        0,
        app,  # type: ignore[arg-type]
        threaded=True,
        request_handler=Quiet,
        ssl_context=(tls[0], tls[1]) if tls else None,
    )
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
