"""Routes, one file for each kind of thing; `ROUTERS` is what the app includes."""

from __future__ import annotations

from fastapi import APIRouter

from app.routes import (
    aliases,
    batches,
    compare,
    dataset_edits,
    datasets,
    embed,
    exchange,
    feedback,
    health,
    jobs,
    keys,
    meta,
    models,
    predict,
    thumbnails,
    tune,
)

ROUTERS: tuple[APIRouter, ...] = (
    tune.router,
    datasets.router,
    dataset_edits.router,
    thumbnails.router,
    jobs.router,
    predict.router,
    batches.router,
    embed.router,
    compare.router,
    models.router,
    aliases.router,
    exchange.router,
    feedback.router,
    keys.router,
    meta.router,
    health.router,
)
