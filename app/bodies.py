"""Small JSON bodies. FastAPI reads a declared body whole, before it looks at anybody's key: so it must be small."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

MAX_JSON_BYTES = 64 * 1024
MAX_LIST_BYTES = 1024 * 1024
IDLE_S = 10.0
WHOLE_S = 60.0
"""For all of a body, so that none comes a byte at a time."""


class SmallBodyRoute(APIRoute):
    """For `APIRouter(route_class=...)` of routes that take a little JSON: 413 beyond it, 408 where it does not come."""

    max_bytes = MAX_JSON_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The framework's handler on a body that ends in time."""
        handle = super().get_route_handler()

        async def limited(request: Request) -> Response:
            return await handle(Request(request.scope, _limited(request.receive, self.max_bytes)))

        return limited


class ListBodyRoute(SmallBodyRoute):
    """The same for routes that take something for each of many: labels of pictures, frequencies of classes."""

    max_bytes = MAX_LIST_BYTES


def _limited(receive: Receive, max_bytes: int) -> Receive:
    received = 0
    until = time.monotonic() + WHOLE_S

    async def limited() -> Message:
        nonlocal received
        left = until - time.monotonic()
        try:
            async with asyncio.timeout(min(IDLE_S, left)):
                message = await receive()
        except TimeoutError:
            late = f"Nothing arrived for {IDLE_S:g} s." if left > IDLE_S else f"The body took over {WHOLE_S:g} s."
            raise HTTPException(408, late) from None
        received += len(message.get("body", b""))
        if received > max_bytes:  # the framework lets no other exception through from here
            raise HTTPException(413, f"The body may be at most {max_bytes:,} bytes of JSON; send less.")
        return message

    return limited
