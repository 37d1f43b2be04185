"""A Compose project in a folder of its own: files as they are in the repository, an .env made as its header says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from outcome import SmokeError, expect, wait_for

BASE, SCALE = "docker-compose.yml", "docker-compose.scale.yml"
SOURCES = ("app", "worker", "npt_core", "pyproject.toml", "README.md", "LICENSE")
FILES = ("docker", BASE, SCALE, ".env.example", ".dockerignore", "requirements.lock")


def run(
    command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a command; `stdin`, `stdout` as for subprocess, both are kept where nothing is said.

    Raises:
        SmokeError: It failed, with its last words, or did not end within `timeout`.
    """
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    try:
        done = subprocess.run(command, cwd=cwd, env=env, check=False, **options)
    except subprocess.TimeoutExpired as error:
        raise SmokeError(f"{' '.join(command)} did not end within {error.timeout:.0f} s") from None
    if done.returncode:
        words = ((done.stderr or b"") + (done.stdout or b"")).decode(errors="replace").strip()[-3000:]
        raise SmokeError(f"{' '.join(command)} ended with {done.returncode}:\n{words}")
    return done


def compose_command() -> list[str]:
    """The Compose that is asked for, or the one that is there."""
    if named := os.environ.get("SMOKE_COMPOSE"):
        return named.split()
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not subprocess.run([*command, "version"], capture_output=True).returncode:
            return command
    raise SmokeError("there is no Compose: neither `docker compose` nor `docker-compose` answers")


def stage(repository: Path, folder: Path, revision: str | None = None) -> None:
    """Copy what the images are made of; `revision` takes the code from there, and all else as it is now."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
    for name in FILES + (SOURCES if revision is None else ()):
        source, target = repository / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore, dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    if revision is not None:
        archive = run(["git", "-C", str(repository), "archive", "--format=tar", revision, *SOURCES]).stdout
        run(["tar", "-x", "-C", str(folder), "-f", "-"], input=archive)


class Deployment:
    """One project.

    Args:
        folder: Where its files are.
        project: Its name: containers and volumes are told by it.
        command: The Compose.
        within_s: How long anything may take.
        variables: For .env.
    """

    def __init__(
        self, folder: Path, project: str, command: Sequence[str], within_s: float, variables: Mapping[str, str]
    ) -> None:
        self.folder, self.project, self.within_s = folder, project, within_s
        self._command = command
        self.files: tuple[str, ...] = (BASE,)
        self.set(variables)

    def set(self, variables: Mapping[str, str]) -> None:
        """Fill in .env anew: the example, and these lines."""
        text = (self.folder / ".env.example").read_text()
        for name, value in variables.items():
            text += f"\n{name}={value}"
        (self.folder / ".env").write_text(text + "\n")

    def compose(self, *arguments: str, **options: Any) -> str:
        """Run Compose; its standard output."""
        files = [part for file in self.files for part in ("-f", file)]
        # What this shell happens to have set goes before .env; here only .env counts.
        settings = set(re.findall(r"^#? ?([A-Z_]+)=", (self.folder / ".env.example").read_text(), re.MULTILINE))
        env = {name: value for name, value in os.environ.items() if name not in settings and name != "COMPOSE_FILE"}
        env["COMPOSE_PROJECT_NAME"] = self.project
        done = run([*self._command, *files, *arguments], self.folder, env, **{"timeout": self.within_s} | options)
        return (done.stdout or b"").decode()

    def build(self) -> None:
        """Both images, one after the other: at once, a builder that shares no work does all of it twice."""
        for service in ("worker", "api"):
            self.compose("build", service, timeout=None)  # torch alone is gigabytes

    def up(self, *services: str) -> None:
        """Start, and wait until all are healthy."""
        self.compose("up", "-d", *services)
        self.wait_healthy()

    def restart(self, service: str) -> None:
        """Restart the containers of a service, and see that they were."""
        before = {one["Id"]: one["State"]["StartedAt"] for one in self.containers(service)}
        self.compose("restart", service)
        after = {one["Id"]: one["State"]["StartedAt"] for one in self.containers(service)}
        expect(after.keys() == before.keys(), f"{service} has other containers after a restart")
        expect(all(after[name] != at for name, at in before.items()), f"{service} was not restarted")

    def down(self, *arguments: str) -> None:
        self.compose("down", "--remove-orphans", *arguments)

    def execute(self, service: str, *command: str) -> str:
        """A command in a running container."""
        return self.compose("exec", "-T", service, *command)

    def refuses(self, service: str, *command: str) -> bool:
        """Whether a command in a container fails."""
        try:
            self.execute(service, *command)
        except SmokeError:
            return True
        return False

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What the engine says of each container of a service, or of the project."""
        ids = self.compose("ps", "-q", *([service] if service else [])).split()
        found: list[dict[str, Any]] = json.loads(run(["docker", "inspect", *ids]).stdout) if ids else []
        return found

    def wait_healthy(self) -> float:
        """Wait until every container that has a health check is well; seconds."""

        wanted = {"api", "worker", "redis"} | ({"proxy"} if SCALE in self.files else set())

        def well() -> bool:
            found = self.containers()
            services = {container["Config"]["Labels"]["com.docker.compose.service"] for container in found}
            states = [container["State"].get("Health", {}).get("Status") for container in found]
            return services == wanted and set(states) == {"healthy"}

        return wait_for("every container is healthy", well, self.within_s, every_s=1)

    def ports(self, service: str) -> list[str]:
        """ADDRESS:PORT where each container of a service is published."""
        bound = [one["NetworkSettings"]["Ports"] or {} for one in self.containers(service)]
        return [f"{b['HostIp']}:{b['HostPort']}" for ports in bound for binds in ports.values() for b in binds or []]

    def logs(self) -> str:
        """Everything that the containers wrote."""
        return self.compose("logs", "--no-color", stderr=subprocess.STDOUT)

    # -- volumes, with the commands of docs/deploy.md

    def volume(self, name: str) -> str:
        return f"{self.project}_{name}"

    def _with_store(self, *command: str, read_only: bool = False) -> list[str]:
        """A command in a container of the worker's image, whatever its tag: stopped ones tell it, too."""
        image = self.compose("images", "-q", "worker").strip()
        expect(image and len(image.split()) == 1, f"`images -q worker` printed {image!r}, not one image")
        mount = f"{self.volume('store')}:/data{':ro' if read_only else ''}"
        return ["docker", "run", "--rm", "-i", "--log-driver", "none", "-v", mount, image, *command]

    def backup(self, file: Path) -> None:
        """The store as a tar file, while nothing writes into it."""
        left_out = [f"--exclude=./{name}" for name in ("features", "exports", "run")]
        with file.open("wb") as out:
            run(self._with_store("tar", "-C", "/data", *left_out, "-cf", "-", ".", read_only=True), stdout=out)
        expect(file.stat().st_size > 10_240, "the backup is empty")

    def restore(self, file: Path) -> None:
        """Into new volumes, before anything is started."""
        self.compose("up", "--no-start")
        with file.open("rb") as source:
            run(self._with_store("tar", "-C", "/data", "-xpf", "-"), stdin=source)

    def what_is_left(self) -> list[str]:
        """Containers, volumes and networks of the project."""
        label = f"label=com.docker.compose.project={self.project}"
        kinds = (["docker", "ps", "-aq"], ["docker", "volume", "ls", "-q"], ["docker", "network", "ls", "-q"])
        return [line for kind in kinds for line in run([*kind, "--filter", label]).stdout.decode().split()]
