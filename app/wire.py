"""What happens below the application: requests that are no HTTP.

h11 reads HTTP here whatever else is installed: it bounds what it keeps of the head of a request (16 KiB), and uvicorn's
other parser does not.
"""

from __future__ import annotations

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from app import problems
from app.middleware import SAFE_HEADERS


def last_answer(code: str, detail: str) -> Response:
    """A problem after which the connection ends, with the headers that every answer has."""
    return problems.response(code, detail, headers=SAFE_HEADERS | {"Connection": "close"})


class Wire(H11Protocol):
    """uvicorn's, with our answer to what is no HTTP."""

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read, unless an answer is on its way already; then hang up."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = last_answer("malformed-request", "The request is no HTTP/1.1 that this server reads.")
            head = h11.Response(status_code=answer.status_code, headers=answer.raw_headers)
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
