"""The backbones of this server: loaded when first asked for, kept within their memory, told about.

torch and open_clip are imported by the first prediction (or the preload at start), not by the app.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from anyio import to_thread

from app.caches import LoadingCache
from app.collector import leave_torch
from app.encoding import Loaded
from app.metrics import Metrics
from app.problems import Problem
from app.settings import AppSettings
from npt_core.errors import BackboneError, NPTError, UnknownBackboneError

if TYPE_CHECKING:
    from npt_core.clip.specs import BackboneSpec

log = structlog.get_logger(__name__)

DRAIN_S = 10.0
PRELOAD_AGAIN_S = 60.0


class Backbones:
    """Belongs to one event loop.

    Args:
        settings: Which there are, sizes and limits.
        metrics: Where batches are counted.
        on_drop: Told the name of each backbone that leaves the memory.
    """

    def __init__(self, settings: AppSettings, metrics: Metrics, on_drop: Callable[[str], None]) -> None:
        self._settings, self._metrics, self._on_drop = settings, metrics, on_drop
        self._cache: LoadingCache[str, Loaded] = LoadingCache(
            settings.backbone_memory_bytes, lambda loaded: loaded.backbone.nbytes, self._drop
        )
        self._users: Counter[Loaded] = Counter()
        self._retired: set[Loaded] = set()  # out of the cache, and somebody is being answered by them
        self._closing: set[asyncio.Task[Any]] = set()
        self._failures: dict[str, str] = {}
        self._fingerprints: dict[str, str] = {}  # of every backbone that was ever loaded here
        self._preloading = self._lacks_first = False

    @cached_property
    def specs(self) -> Mapping[str, BackboneSpec]:
        """The configured backbones by the names users see; imports the towers' package, so call it in a thread."""
        from npt_core.clip.specs import parse_backbone

        return {spec.name: spec for spec in map(parse_backbone, self._settings.backbone_entries)}

    async def known(self) -> Mapping[str, BackboneSpec]:
        """The configured backbones; the first time in a thread, see `specs`."""
        return self.specs if "specs" in self.__dict__ else await to_thread.run_sync(lambda: self.specs)

    async def get(self, name: str | None = None) -> Loaded:
        """A backbone of this server, loaded; the first one for None.

        Raises:
            UnknownBackboneError: It is not configured here.
            BackboneError: It cannot be loaded.
        """
        specs = await self.known()
        name = next(iter(specs)) if name is None else name
        if name not in specs:
            raise UnknownBackboneError(f"This server has no backbone {name[:100]!r}; it has {', '.join(specs)}.")
        return await self._cache.get(name, lambda: to_thread.run_sync(self._try, specs[name]))

    @asynccontextmanager
    async def use(self, name: str | None = None) -> AsyncIterator[Loaded]:
        """As `get`, and it answers until the block ends, also where others drive it out of the memory meanwhile."""
        loaded = await self.get(name)
        while self._cache.peek(loaded.backbone.name) is not loaded:  # driven out between its load and this line
            loaded = await self.get(name)
        with self.hold(loaded):
            yield loaded

    @contextmanager
    def hold(self, loaded: Loaded) -> Iterator[None]:
        """Keep one that is in use in use for longer."""
        self._users[loaded] += 1
        try:
            yield
        finally:
            self._users[loaded] -= 1
            if not self._users[loaded]:
                del self._users[loaded]
                if loaded in self._retired:
                    self._stop(loaded)

    def _try(self, spec: BackboneSpec) -> Loaded:
        try:
            loaded = self._load(spec)
        except NPTError as error:
            log.warning("backbone cannot be loaded", backbone=spec.name, detail=error.message)
            told = error.message if spec.kind != "local" else _HIDDEN.format(spec.name)  # its message names a path
            self._failures[spec.name] = told
            raise type(error)(told) from error
        self._failures.pop(spec.name, None)
        self._fingerprints[spec.name] = loaded.backbone.fingerprint
        return loaded

    async def admit(self, folder: Path, name: str, fingerprint: str) -> str:
        """Have a model that was sent answer once, on the backbone it was made with; what that is called here.

        Raises:
            BundleError: It cannot be loaded, or gives no finite answer.
            Problem: See `like`.
        """
        from npt_core.bundle import load_unpacked

        loaded = await self.like(name, fingerprint)
        # Not on the thread that owns the towers: with thousands of classes this takes seconds, and others wait there.
        await to_thread.run_sync(load_unpacked, folder, loaded.backbone)
        return loaded.backbone.name

    async def like(self, name: str, fingerprint: str) -> Loaded:
        """The backbone of these very weights, whatever it is called here; the one of that name is looked at first.

        Raises:
            Problem: 409, there is none; the detail names what was looked for and what is here.
            BackboneError: The one of that name cannot be loaded.
        """
        specs = await self.known()
        for here in sorted(specs, key=lambda one: one != name):
            if self._fingerprints.get(here, fingerprint) != fingerprint:
                continue
            try:
                loaded = await self.get(here)
            except BackboneError:
                if here == name:
                    raise
                continue  # it is logged, and nobody can tell what it is
            if loaded.backbone.fingerprint == fingerprint:
                return loaded
        known = ", ".join(f"{here!r} ({_short(self._fingerprints.get(here))})" for here in specs)
        raise Problem(
            "fingerprint-mismatch" if name in specs else "backbone-not-configured",
            f"The model was made with the backbone {name!r} (fingerprint {_short(fingerprint)}); this server has "
            f"{known}. On other weights its scores would mean nothing: configure the backbone it was made with.",
        )

    def _load(self, spec: BackboneSpec) -> Loaded:
        import torch

        from npt_core.clip import load_backbone

        leave_torch()
        settings = self._settings
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        backbone = load_backbone(
            spec, device=settings.device, precision=settings.precision, cache_dir=settings.weights_path
        )
        log.info("backbone loaded", backbone=backbone.name, device=str(backbone.device), bytes=backbone.nbytes)
        return Loaded(backbone, settings, self._metrics.observe_batch(backbone.name))

    def _drop(self, name: str, loaded: Loaded) -> None:
        self._on_drop(name)
        if loaded in self._users:
            self._retired.add(loaded)
        else:
            self._stop(loaded)

    def _stop(self, loaded: Loaded) -> None:
        self._retired.discard(loaded)
        task = asyncio.ensure_future(to_thread.run_sync(loaded.batcher.close, DRAIN_S))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def preload(self, after: Callable[[], object] = lambda: None) -> asyncio.Task[None]:
        """Begin to load the first backbone once `after` has returned; a failure is told to whoever asks for it."""
        self._preloading = True  # before anybody can ask
        return asyncio.create_task(self._preload(after), name="preload")

    async def _preload(self, after: Callable[[], object]) -> None:
        """Load it, and where that fails try again: a server that is not ready gets no request that would."""
        await to_thread.run_sync(after, abandon_on_cancel=True)
        while True:
            try:
                await self.get()
                self._lacks_first = False
                return
            except NPTError:
                self._lacks_first = True  # it was logged where it happened
            finally:
                self._preloading = False
            await asyncio.sleep(PRELOAD_AGAIN_S)

    @property
    def lacks_first(self) -> bool:
        """Whether the first backbone was to be loaded ahead and could not be."""
        return self._lacks_first and next(iter(self.specs)) in self._failures

    @property
    def in_trouble(self) -> bool:
        """Whether a backbone could not be loaded when it was last tried."""
        return bool(self._failures)

    @property
    def preloading(self) -> bool:
        """Whether the first backbone is on its way into memory."""
        return self._preloading

    async def describe(self) -> list[dict[str, Any]]:
        """Every configured backbone; those in memory in full."""
        specs = await self.known()
        found = []
        for number, (name, spec) in enumerate(specs.items()):
            loaded = self._cache.peek(name)
            known = {
                "name": name,
                "kind": spec.kind,
                "knows_photographs": spec.kind != "demo",
                "description": _SAYS[spec.kind],
            }
            known |= loaded.backbone.describe() if loaded else {}
            reason = self._failures.get(name)
            state = {"default": number == 0, "loaded": loaded is not None, "available": not reason, "reason": reason}
            found.append(known | state)
        return found

    def pending(self) -> dict[str, float]:
        """Images waiting, by backbone."""
        return {loaded.backbone.name: loaded.batcher.pending for loaded in self._cache.values()}

    @property
    def looks(self) -> dict[str, float]:
        """How often one was in memory, and how often not."""
        return {"hit": self._cache.hits, "miss": self._cache.misses}

    @property
    def nbytes(self) -> int:
        """Memory of those that are loaded."""
        return self._cache.nbytes

    async def close(self) -> None:
        """Answer what was admitted, then stop every thread."""
        for loaded in self._cache.values():
            self._cache.drop(loaded.backbone.name)
        for loaded in list(self._retired):
            self._stop(loaded)
        if self._closing:
            await asyncio.wait(set(self._closing), timeout=DRAIN_S + 1)


_HIDDEN = "The file of backbone {!r} cannot be used; the operator finds the reason in the log."
_SAYS: Mapping[str, str] = {
    "demo": "A small CLIP trained by this project on pictures it drew. It knows no photographs.",
    "open_clip": "A CLIP that open_clip publishes; described in full once it is loaded.",
    "hf-hub": "A CLIP from the Hugging Face hub; described in full once it is loaded.",
    "local": "A CLIP from a file of the operator's; described in full once it is loaded.",
}


def _short(fingerprint: str | None) -> str:
    return f"{fingerprint[:12]}…" if fingerprint else "not loaded"
