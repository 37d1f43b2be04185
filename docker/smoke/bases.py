"""Base images: those of .env.example, of the caller's variables, or stand-ins that a command makes."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

from outcome import NoEngine, SmokeError

STAND_INS = {
    "PYTHON_IMAGE": "python:npt-standin",
    "REDIS_IMAGE": "redis:npt-standin",
    "NGINX_IMAGE": "nginx:npt-standin",
}
"""Variable of .env -> name of a stand-in. No registry has these: none is taken for the image of that name."""
NO_ENGINE = 3
"""Exit code of docker/bases.sh where there can be no engine."""


def base_images(repository: Path) -> dict[str, str]:
    """What .env has to say of base images, after SMOKE_BASES has made them where it is set.

    Raises:
        NoEngine: The command says that there can be no Docker engine here.
        SmokeError: It failed.
    """
    command = shlex.split(os.environ.get("SMOKE_BASES", ""))
    if not command:
        return {name: os.environ[name] for name in STAND_INS if os.environ.get(name)}
    # The legacy builder takes what the engine has; BuildKit would ask a registry.
    os.environ.update(DOCKER_BUILDKIT="0", COMPOSE_DOCKER_CLI_BUILD="0")
    code = subprocess.run([*command, *STAND_INS.values()], cwd=repository, stdin=subprocess.DEVNULL).returncode
    if code == NO_ENGINE:
        raise NoEngine(f"{command[0]} says that there can be no Docker engine here")
    if code:
        raise SmokeError(f"SMOKE_BASES ({shlex.join(command)}) ended with {code}")
    return dict(STAND_INS)
