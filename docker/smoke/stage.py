"""What the steps share: the repository, the deployment under test, what was seen so far."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from client import Client
from compose import Deployment, run, stage
from outcome import record

TAG, PREVIOUS_TAG = "smoke", "smoke-previous"


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Stage:
    """One run of the script.

    Attributes:
        repository: What is tried out.
        folder: Scratch, removed at the end.
        command: The Compose.
        within_s: How long anything may take.
        previous: Revision to upgrade from; None where there is none.
        bases: Variables of .env that name base images; none: as they are by default.
        hidden: What must be in no log, by what it is.
    """

    repository: Path
    folder: Path
    command: list[str]
    within_s: float
    previous: str | None
    bases: Mapping[str, str] = field(default_factory=dict)
    password: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)
    port: int = field(default_factory=free_port)
    model: str = ""
    steps_per_s: float = 100.0
    answers: list[dict[str, Any]] = field(default_factory=list)
    hidden: dict[str, str] = field(default_factory=dict, repr=False)

    REDIS: ClassVar[str] = "the password of Redis"

    def __post_init__(self) -> None:
        self.hidden[self.REDIS] = self.password

    def hide(self, what: str, key: str) -> None:
        """A key that must show up nowhere; what is secret of it is its last part."""
        self.hidden[what] = key.split("_", 2)[-1]

    @cached_property
    def deployment(self) -> Deployment:
        """The images of the working tree, and a project of their own."""
        return self._deployment("now", TAG)

    @cached_property
    def upgraded(self) -> Deployment:
        """Another project, that begins with the images of the previous version."""
        return self._deployment("previous", PREVIOUS_TAG, self.previous)

    def _deployment(self, name: str, tag: str, revision: str | None = None) -> Deployment:
        folder = self.folder / name
        folder.mkdir()
        stage(self.repository, folder, revision)
        project = f"npt-smoke-{secrets.token_hex(3)}"
        record(f"project {project}")
        return Deployment(folder, project, self.command, self.within_s, self.variables(tag))

    def variables(self, tag: str = TAG, **more: str) -> dict[str, str]:
        """What .env says beside its defaults."""
        own = {"REDIS_PASSWORD": self.password, "PUBLISH": f"127.0.0.1:{self.port}", "IMAGE_TAG": tag}
        # Two workers on two cores, beside who knows what: threads that wait for each other would do nothing else.
        return own | {"NPT_TORCH_THREADS": "1"} | dict(self.bases) | more

    @cached_property
    def client(self) -> Client:
        """Outside, with the key once there is one."""
        return Client(f"http://127.0.0.1:{self.port}", None, self.within_s)

    def with_key(self, key: str) -> Client:
        """Outside, with another key."""
        return replace(self.client, key=key)

    @property
    def started(self) -> list[Deployment]:
        """Every project there may be something of."""
        return [vars(self)[name] for name in ("deployment", "upgraded") if name in vars(self)]

    # -- pictures

    @cached_property
    def digits(self) -> bytes:
        return (self.repository / "examples" / "digits.zip").read_bytes()

    @cached_property
    def held_out_zip(self) -> bytes:
        return (self.repository / "examples" / "digits_holdout.zip").read_bytes()

    @cached_property
    def held_out(self) -> list[tuple[str, str, bytes]]:
        """(label, name, content) of pictures that are in no upload."""
        with zipfile.ZipFile(self.repository / "examples" / "digits_holdout.zip") as archive:
            names = [name for name in archive.namelist() if name.endswith(".png")]
            return [(Path(name).parent.name, name, archive.read(name)) for name in names]

    def classify(self, client: Client, count: int | None = None, **fields: str) -> list[dict[str, Any]]:
        """The answers for the held-out pictures, or for the first few."""
        return client.predict([(name, data) for _, name, data in self.held_out[:count]], **fields)

    def accuracy(self, answers: list[dict[str, Any]]) -> float:
        """Share of the held-out pictures that were named rightly."""
        return sum(one["label"] == label for one, (label, _, _) in zip(answers, self.held_out, strict=True)) / len(
            answers
        )


def image(name: str) -> dict[str, Any]:
    """What the engine says of an image."""
    (found,) = json.loads(run(["docker", "image", "inspect", name]).stdout)
    return dict(found)


def earlier_version(repository: Path) -> str | None:
    """The last tag, else the last but one change of the code; None without git or history."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(repository), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    changes = git("log", "-2", "--format=%H", "--", "app", "worker", "npt_core").split()
    return git("describe", "--tags", "--abbrev=0") or (changes[1] if len(changes) > 1 else None)
