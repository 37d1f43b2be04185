"""The frozen towers of this process: loaded once, kept while it lives. Imported inside tasks only: it needs torch."""

from __future__ import annotations

import threading

import structlog

from npt_core.clip import Backbone, load_backbone, parse_backbone
from npt_core.errors import Fault, UnknownBackboneError
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

_lock = threading.Lock()
_loaded: dict[tuple[str, str, str], Backbone] = {}


def names(settings: WorkerSettings) -> dict[str, str]:
    """Name shown to users -> the operator's entry."""
    return {parse_backbone(entry).name: entry for entry in settings.backbone_entries}


def load(settings: WorkerSettings, name: str | None = None, precision: str = "auto") -> Backbone:
    """The backbone of that name, or the server's first.

    Raises:
        UnknownBackboneError: the operator has not configured it.
        BackboneUnavailableError: its weights cannot be had.
    """
    known = names(settings)
    if name is None:
        name = next(iter(known))
    if name not in known:
        message = f"There is no backbone {name!r} on this server; it has {', '.join(known)}."
        raise UnknownBackboneError(message, [Fault("backbone", message)])
    chosen = settings.precision if precision == "auto" else precision
    key = (name, settings.device, chosen)
    with _lock:
        if key not in _loaded:
            keep_to_threads(settings)
            # One at a time: towers are large, and jobs in a row mostly ask for the same.
            _loaded.clear()
            _loaded[key] = load_backbone(
                known[name], device=settings.device, precision=chosen, cache_dir=settings.weights_path
            )
            log.info("backbone loaded", backbone=name, device=str(_loaded[key].device), precision=chosen)
        return _loaded[key]


def keep_to_threads(settings: WorkerSettings) -> None:
    """Have the calling thread compute on as many CPU threads as the settings say.

    Each thread has a number of its own, and takes over another's only where it has computed nothing yet. Sums in
    another order round differently: a tuning that goes on with another number does not come to the same bits.
    """
    if settings.torch_threads:
        import torch

        torch.set_num_threads(settings.torch_threads)


def forget() -> None:
    """Let every backbone go."""
    with _lock:
        _loaded.clear()
