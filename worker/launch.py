"""The two small programs between the supervisor and its children. Standard library only; run by path, never imported.

    python -I -S launch.py exec RELEASE_FD PARENT_PID ARGV...   become ARGV, once the guard knows of us
    python -I -S launch.py guard LIFELINE_FD GRACE_S            end every child when the supervisor is gone

`exec` asks Linux for a SIGTERM when the supervisor's thread dies, which only the process itself can ask for, then waits
for one byte: until then the guard may not know of it, and end of file means that the supervisor is already gone.

`guard` holds the reading end of a pipe whose only writing end is the supervisor's. However the supervisor ends, kill -9
included and on every POSIX system, the pipe ends with it, and the guard ends the process groups it was told of:
SIGTERM to their leaders, then SIGKILL to the groups, so that grandchildren go too.
"""

from __future__ import annotations

import os
import signal
import sys
import time

POLL_S = 0.05
LAST_WAIT_S = 2.0  # a zombie counts as there until init has reaped it
PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> int:
    if argv[0] == "exec":
        return become(int(argv[1]), int(argv[2]), argv[3:])
    return guard(int(argv[1]), float(argv[2]))


def become(release_fd: int, parent: int, argv: list[str]) -> int:
    ask_for_death_signal()
    if os.getppid() != parent:  # it died before we could ask
        return 1
    if not os.read(release_fd, 1):
        return 1
    os.close(release_fd)
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores these, and an ignored signal stays ignored across exec
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 - the commands are the operator's own
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: cannot be run: {error.strerror}\n")
    return 127


def ask_for_death_signal() -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def guard(lifeline: int, grace_s: float) -> int:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # ends with the supervisor, not with the terminal
    groups: set[int] = set()
    pending = b""
    while chunk := os.read(lifeline, 4096):
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            group = int(line[1:])
            if line[:1] == b"+":
                groups.add(group)
            else:
                groups.discard(group)
    end(groups, grace_s)
    return 0


def end(groups: set[int], grace_s: float) -> None:
    for leader in groups:
        send(os.kill, leader, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while groups and time.monotonic() < deadline:
        for leader in list(groups):
            if not send(os.kill, leader, 0):  # its own clean-up is over: what it left behind has no reason to stay
                send(os.killpg, leader, signal.SIGKILL)
                groups.discard(leader)
        time.sleep(POLL_S)
    for leader in groups:
        send(os.killpg, leader, signal.SIGKILL)
    deadline = time.monotonic() + LAST_WAIT_S
    while time.monotonic() < deadline and any(send(os.killpg, leader, 0) for leader in groups):
        time.sleep(POLL_S)  # whoever waits for a lock that we hold wants them gone, not just killed


def send(kill: object, target: int, number: int) -> bool:
    try:
        kill(target, number)  # type: ignore[operator]
    except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
