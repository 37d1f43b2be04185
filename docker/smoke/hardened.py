"""What nobody may see or do: how containers are confined, and where secrets do not stand."""

from __future__ import annotations

import json
import subprocess

from compose import Deployment, run
from outcome import expect
from stage import Stage


def check_service(s: Stage, name: str) -> None:
    """No root user, an init, a root file system that cannot be written, limits, no secret in an argument.

    Raises:
        SmokeError: It is otherwise, for the first or the only container of that service.
    """
    d = s.deployment
    user = d.execute(name, "id", "-u").strip()
    expect(user == "10001" if name in ("api", "worker") else user not in ("0", ""), f"{name} runs as user {user}")
    first = d.execute(name, "cat", "/proc/1/cmdline")
    expect("init" in first.split("\0")[0], f"process 1 of {name} is {first!r}, no init")
    container = d.containers(name)[0]
    expect(not can_write(container["Id"]), f"the root file system of {name} can be written")
    host = container["HostConfig"]
    expect(host["Memory"] > 0 and host["PidsLimit"] > 0, f"{name} has no limit of memory or of processes")
    expect(host["CapDrop"] == ["ALL"] and not host["Privileged"], f"{name} has capabilities")
    volumes = [mount["Name"] for mount in container["Mounts"] if mount["Type"] == "volume"]
    expect(all(volume.startswith(d.project) for volume in volumes), f"{name} has a volume without a name: {volumes}")
    top = run(["docker", "top", container["Id"]]).stdout.decode()
    for what, secret in s.hidden.items():
        expect(secret not in top, f"{what} is an argument of a process of {name}")


def can_write(container: str) -> bool:
    """Whether root could write outside of volumes; another user could not anyway."""
    return (
        subprocess.run(["docker", "exec", "-u", "0", container, "touch", "/here"], capture_output=True).returncode == 0
    )


def no_secret_is_seen(s: Stage, d: Deployment) -> None:
    """Neither in what the containers wrote until now, nor, of a key that was made, in what the engine knows of them."""
    logs, known = d.logs(), json.dumps(d.containers())
    for what, secret in s.hidden.items():
        expect(secret not in logs, f"{what} is in the logs")
        expect(what == s.REDIS or secret not in known, f"{what} is in `docker inspect`")


def leave(s: Stage, d: Deployment, *arguments: str) -> None:
    """Down; the logs go with the containers, so they are looked through before."""
    no_secret_is_seen(s, d)
    d.down(*arguments)
