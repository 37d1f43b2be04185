"""Server-sent events from the lines of a response (WHATWG HTML, 9.2)."""

from __future__ import annotations

import json

from app.client.types import Event


class EventLines:
    """Feed it lines; it gives an event where one is complete."""

    def __init__(self, last_id: str | None = None) -> None:
        self.last_id = last_id
        self._event, self._data = "message", list[str]()

    def feed(self, line: str) -> Event | None:
        """Take one line without its end.

        Returns:
            The event that ends with this line, or None.
        """
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._event = value
            elif name == "data":
                self._data.append(value)
            elif name == "id":
                self.last_id = value
            return None
        data, event = "\n".join(self._data), self._event
        self._event, self._data = "message", []
        return Event(self.last_id, event, json.loads(data)) if data else None
