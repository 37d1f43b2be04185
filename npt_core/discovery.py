"""A registry filled by the files of a package: adding a method or a regulariser means adding one file."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

from npt_core.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by name, found by importing every module of a package once.

    Args:
        package: The package whose modules register themselves.
        noun: What one entry is called in messages.
    """

    def __init__(self, package: str, noun: str) -> None:
        self._package = package
        self._noun = noun
        self._entries: dict[str, type[T]] = {}
        self._discovered = self._discovering = False
        self._lock = threading.RLock()

    def add(self, name: str, entry: type[T]) -> None:
        """Register `entry`.

        Raises:
            ConfigError: Another class has that name already.
        """
        known = self._entries.get(name)
        if known is not None:
            raise ConfigError(
                f"Two {self._noun}s are called {name!r}: {known.__module__}.{known.__qualname__} and "
                f"{entry.__module__}.{entry.__qualname__}; give one another name."
            )
        self._entries[name] = entry

    def remove(self, name: str) -> None:
        """Forget an entry (for tests that register their own)."""
        self._entries.pop(name, None)

    def _discover(self) -> None:
        if self._discovered:
            return
        with self._lock:  # who asks while another thread imports gets all of them too
            if self._discovering:
                return  # a module of the package asks while it is imported
            self._discovering = True
            try:
                package = importlib.import_module(self._package)
                for module in pkgutil.iter_modules(package.__path__):
                    importlib.import_module(f"{self._package}.{module.name}")
                self._discovered = True
            finally:
                self._discovering = False

    def get(self, name: str) -> type[T]:
        """Return the entry called `name`.

        Raises:
            ConfigError: There is none; the message lists those there are.
        """
        self._discover()
        if name not in self._entries:
            raise ConfigError(f"There is no {self._noun} {name!r}; accepted: {', '.join(self.names())}.")
        return self._entries[name]

    def names(self) -> list[str]:
        """Return every name, sorted."""
        self._discover()
        return sorted(self._entries)

    def __iter__(self) -> Iterator[type[T]]:
        return iter([self._entries[name] for name in self.names()])
