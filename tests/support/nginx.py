"""A real nginx on the server block of docs/deploy.md."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import ROOT, wait_for

AROUND = """
daemon off;
pid {folder}/pid;
{user}
error_log stderr warn;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
{server}
}}
"""

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")  # Debian's is not on every user's PATH

needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def documented(here: dict[str, str]) -> str:
    """The server block that the documentation shows, with what is particular to this machine in it."""
    (block,) = re.findall(r"^```nginx\n(.*?)^```$", (ROOT / "docs" / "deploy.md").read_text(), re.MULTILINE | re.DOTALL)
    for shown, used in here.items():
        assert block.count(shown) == 1, shown
        block = block.replace(shown, used)
    return block


@contextlib.contextmanager
def running_nginx(folder: Path, server: str, port: int) -> Iterator[None]:
    """nginx on a configuration of its own; what it has to say is in a file."""
    user = "user root;" if os.geteuid() == 0 else ""  # its worker writes into the folder as well
    config, log = folder / "nginx.conf", folder / "nginx.log"
    config.write_text(AROUND.format(folder=folder, user=user, server=server))
    assert NGINX is not None
    command = [NGINX, "-e", "stderr", "-p", str(folder), "-c", str(config)]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        wait_for(f"nginx to start, log {log}", lambda: process.poll() is not None or answers(port))
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)
