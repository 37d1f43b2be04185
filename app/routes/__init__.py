"""Routes, one file for each kind of thing; `ROUTERS` is what the app includes."""

from __future__ import annotations

from fastapi import APIRouter

from app.routes import datasets, health, jobs, meta, models, predict, tune

ROUTERS: tuple[APIRouter, ...] = (
    tune.router,
    datasets.router,
    jobs.router,
    predict.router,
    models.router,
    meta.router,
    health.router,
)
