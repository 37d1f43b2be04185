"""An S3 server of the tests: moto behind real HTTP, in a process of its own.

Conditions are judged and objects written as one step, which moto by itself does not promise to threads. With
`--no-conditions` it is a server that has never heard of conditional writes; `--tls=CERT,KEY` has it speak HTTPS;
`--deny=PART` has it refuse writes to keys with that in their name, as a policy of the bucket does; with
`--refuse=STATUS,CODE` it answers so to whatever asks for an object, and with `--no-heads` 403 to HEAD alone; with
`--as-ceph` it differs as Ceph does.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.support.s3_as_ceph import as_ceph


class OneByOne:
    """Reads a whole request, then lets it through alone."""

    def __init__(self, app: Any, conditions: bool, deny: str | None, refusals: dict[str, str]) -> None:
        self._app, self._conditions, self._deny, self._refusals = app, conditions, deny, refusals
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
            return _refused("403", "AccessDenied", start_response)
        refusal = self._refusals.get(environ["REQUEST_METHOD"])
        if refusal and environ["PATH_INFO"].count("/") > 1:
            return _refused(*refusal.split(","), start_response)
        with self._lock:
            return list(self._app(environ, start_response))


def _refused(status: str, code: str, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response(f"{status} No", [("Content-Type", "application/xml")])
    return [f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()]


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log(self, *_: object) -> None:
        """Tests ask, nobody reads."""


def main() -> None:
    def option(name: str) -> str | None:
        return next((said.removeprefix(name) for said in sys.argv if said.startswith(name)), None)

    moto, conditions = DomainDispatcherApplication(create_backend_app), "--no-conditions" not in sys.argv
    if "--as-ceph" in sys.argv:
        moto = as_ceph(moto)
    refusals = {method: said for method in ("GET", "HEAD") if (said := option("--refuse="))}
    if "--no-heads" in sys.argv:
        refusals["HEAD"] = "403,AccessDenied"
    app = OneByOne(moto, conditions, option("--deny="), refusals)
    tls = (option("--tls=") or "").split(",")
    server = make_server(
        "127.0.0.1",
        0,
        app,  # type: ignore[arg-type]
        threaded=True,
        request_handler=Quiet,
        ssl_context=(tls[0], tls[1]) if len(tls) == 2 else None,
    )
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
