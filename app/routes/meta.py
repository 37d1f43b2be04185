"""What this server can use, and what its problems mean."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Security

from app.auth import PREDICT, authorize
from app.context import Ctx, in_thread
from app.problems import KINDS, Kind, Problem
from app.routes.answers import problems
from app.schemas import BackboneInfo, Backbones, MethodInfo, Methods, ProblemKind

router = APIRouter(tags=["about"])
_READ = Security(authorize, scopes=[PREDICT])


@router.get("/backbones", operation_id="list_backbones", responses=problems(), dependencies=[_READ])
async def list_backbones(context: Ctx) -> Backbones:
    """The frozen CLIPs this server tunes and predicts with, as the operator configured them."""
    found = await context.inference.backbones.describe()
    return Backbones(backbones=[BackboneInfo.model_validate(entry) for entry in found])


@router.get("/methods", operation_id="list_methods", responses=problems(), dependencies=[_READ])
async def list_methods() -> Methods:
    """The methods and regularisers of a tune config, each with the JSON Schema of its settings."""
    return await in_thread(_methods)


def _methods() -> Methods:
    from npt_core.collapse import list_regularizers
    from npt_core.methods import list_methods
    from npt_core.tuning.config import TuneConfig

    return Methods(
        config_schema=TuneConfig.json_schema(),
        items=[_info(info.to_dict()) for info in list_methods()],
        regularizers=[_info(info.to_dict()) for info in list_regularizers()],
    )


def _info(data: dict[str, Any]) -> MethodInfo:
    return MethodInfo.model_validate(
        {"config_schema": data["schema"]} | {k: v for k, v in data.items() if k != "schema"}
    )


@router.get("/problems", operation_id="list_problems")
async def list_problems() -> list[ProblemKind]:
    """Every kind of problem this server answers with."""
    return [_kind(code, kind) for code, kind in KINDS.items()]


@router.get("/problems/{code}", operation_id="get_problem", responses={404: problems(404)[404]})  # needs no key
async def get_problem(code: Annotated[str, Path(max_length=100, examples=["invalid-archive"])]) -> ProblemKind:
    """What a kind of problem means and what to do about it: where the `type` of every problem leads."""
    if code not in KINDS:
        raise Problem("not-found", f"There is no kind of problem called {code!r}.")
    return _kind(code, KINDS[code])


def _kind(code: str, kind: Kind) -> ProblemKind:
    return ProblemKind(type=f"/problems/{code}", code=code, title=kind.title, status=kind.status, remedy=kind.remedy)
