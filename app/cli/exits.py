"""How a command ends: exit codes, and errors in words or, with --json, as one JSON object on stderr.

0     done
1     refused, failed, or something is wrong: the server said no, a job failed, `verify` or `doctor` found something
2     wrong usage or a wrong setting; nothing was done
3     no server answers at that address
130   Ctrl-C
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
PROGRAM = "npt"
SERVICE_PACKAGES = "npt-service[service]"
MAX_FAULTS = 20


class CommandError(Exception):
    """A command cannot do what it was told to.

    Args:
        detail: What is wrong and what to do.
        code: For programs.
        exit_code: One of the above.
        errors: Every single fault: `path` and `message`.
    """

    def __init__(
        self, detail: str, code: str, exit_code: int = FAILED, errors: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__(detail)
        self.detail, self.code, self.exit_code, self.errors = detail, code, exit_code, errors


def usage(detail: str) -> CommandError:
    """The command was called in a way that makes no sense."""
    return CommandError(detail, "usage", USAGE)


def told(error: Exception, *, as_json: bool) -> int | None:
    """Say an error that was meant to be said.

    Returns:
        The exit code; None for an error nobody meant, which is a fault of this program.
    """
    known = _known(error)
    if known is None:
        return None
    if as_json:
        facts = {"code": known.code, "detail": known.detail, "errors": [dict(one) for one in known.errors]}
        sys.stderr.write(json.dumps({"error": facts}, ensure_ascii=False) + "\n")
        return known.exit_code
    sys.stderr.write(f"{PROGRAM}: {printable(known.detail)}\n")
    faults = [one for one in known.errors if str(one.get("message")) not in known.detail]
    for one in faults[:MAX_FAULTS]:
        where = f"{one['path']}: " if one.get("path") else ""
        sys.stderr.write(printable(f"  {where}{one.get('message')}") + "\n")
    if len(faults) > MAX_FAULTS:
        sys.stderr.write(f"  and {len(faults) - MAX_FAULTS} more; --json lists all of them\n")
    return known.exit_code


def _known(error: Exception) -> CommandError | None:
    if isinstance(error, CommandError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith(("app", "worker", "npt_")):
        message = (
            f"This command runs on the service's own packages, and {error.name!r} is not installed: "
            f"pip install '{SERVICE_PACKAGES}'."
        )
        return CommandError(message, "extra-missing", USAGE)
    # Each kind of error is known only where its module is in memory: then one of its errors may be what was raised.
    for look, module in ((_of_client, "app.client.errors"), (_of_core, "npt_core.errors"), (_of_settings, "pydantic")):
        if module in sys.modules and (found := look(error)) is not None:
            return found
    return None


def _of_client(error: Exception) -> CommandError | None:
    from app.client.errors import ApiError, ClientError, JobFailedError, ServerUnreachableError

    if isinstance(error, ServerUnreachableError):
        return CommandError(str(error), "unreachable", UNREACHABLE)
    if isinstance(error, ApiError):
        if error.status == 401:
            detail = f"{error.detail} Give the key with NPT_API_KEY or --key."
            return CommandError(detail, error.code, FAILED, error.errors)
        return CommandError(error.detail, error.code, FAILED, error.errors)
    if isinstance(error, JobFailedError):
        code = error.code or error.status
        return CommandError(f"The job {error.job_id} did not succeed: {error}", code, FAILED, error.errors)
    return CommandError(str(error), "unusable-input", USAGE) if isinstance(error, ClientError) else None


def _of_core(error: Exception) -> CommandError | None:
    from npt_core.errors import ConfigError, NPTError, UnknownBackboneError

    if not isinstance(error, NPTError):
        return None
    exit_code = USAGE if isinstance(error, (ConfigError, UnknownBackboneError)) else FAILED
    faults = [{"path": fault.path, "message": fault.message} for fault in error.faults]
    return CommandError(error.message, error.code, exit_code, faults)


def _of_settings(error: Exception) -> CommandError | None:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return None
    from worker.settings import faults_in

    return CommandError("\n".join(faults_in(error)), "invalid-settings", USAGE)


def printable(text: str) -> str:
    """Text that may come from strangers, without what a terminal would take for a command."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in text)
