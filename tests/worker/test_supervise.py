"""Real small children: sleepers, crashers, ones that ignore SIGTERM, ones with children of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.support.processes import alive, family, python, wait_gone
from tests.support.service import ROOT, wait_for
from worker.supervise import ChildError, Command, Ended, Restart, State, Supervisor

QUICK = Restart(first_pause_s=0.02, longest_pause_s=0.2)
SLEEP = "import time; time.sleep(600)"
# Says hello once SIGTERM does nothing to it, so that a test does not signal too early.
DEAF = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").close()
time.sleep(600)
"""
# Appends what happens to it, ending orderly on SIGTERM.
DIARY = """
import os, signal, sys, time
path, name = sys.argv[1:3]
def write(what):
    with open(path, "a") as file:
        file.write(f"{name} {what}\\n")
def end(*_):
    write("end")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
write("start")
open(f"{path}.{name}", "w").close()
time.sleep(600)
"""
# Leaves a child in its own process group, as a Celery worker does with its pool; both ignore SIGTERM when told to.
PARENT = """
import signal, subprocess, sys, time
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-I", "-S", "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
with open(sys.argv[1], "w") as file:
    file.write(str(child.pid))
time.sleep(600)
"""


def command(name: str, *argv: str, **options: object) -> Command:
    base = Command(name, list(argv), settle_s=0.05, restart=QUICK, stop_timeout_s=10)
    return replace(base, **options)  # type: ignore[arg-type]


def pid_of(supervisor: Supervisor, name: str) -> int:
    pid = next(child.pid for child in supervisor.status() if child.name == name)
    assert pid is not None
    return pid


def starts_of(supervisor: Supervisor, name: str) -> int:
    return next(child.starts for child in supervisor.status() if child.name == name)


def number_in(path: Path) -> int:
    return int(wait_for(f"{path} to be written", lambda: path.exists() and path.read_text()))


def exists(path: Path) -> Callable[[], bool]:
    return path.exists


def test_children_start_in_order_and_stop_in_reverse(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    commands = [
        command(name, *python(DIARY, diary, name), ready=exists(tmp_path / f"diary.{name}"))
        for name in ("broker", "worker", "api")
    ]
    others = set(family(os.getpid()))  # of this test run: a server that other tests share, for one
    with Supervisor(commands) as supervisor:
        assert supervisor.wait_ready(30)
        assert [child.state for child in supervisor.status()] == [State.READY] * 3
        members = set(family(os.getpid())) - others
    assert diary.read_text().split("\n")[:-1] == [
        "broker start",
        "worker start",
        "api start",
        "api end",
        "worker end",
        "broker end",
    ]
    assert [child.state for child in supervisor.status()] == [State.STOPPED] * 3
    assert members
    wait_gone(members)


def test_the_next_waits_until_the_one_before_is_ready(tmp_path: Path) -> None:
    go = threading.Event()
    commands = [command("first", *python(SLEEP), ready=go.is_set), command("second", *python(SLEEP))]
    with Supervisor(commands) as supervisor:
        wait_for("the first to start", lambda: supervisor.status()[0].state is State.STARTING)
        assert not supervisor.wait_ready(0.3)
        assert supervisor.status()[1].state is State.WAITING
        go.set()
        assert supervisor.wait_ready(20)


def test_one_that_holds_nobody_back() -> None:
    go = threading.Event()
    commands = [command("worker", *python(SLEEP), ready=go.is_set, holds_back=False), command("api", *python(SLEEP))]
    with Supervisor(commands) as supervisor:
        wait_for("the second", lambda: supervisor.status()[1].state is State.READY)
        assert not supervisor.wait_ready(0)
        go.set()
        assert supervisor.wait_ready(20)


def test_each_child_leads_its_own_session_and_reads_no_terminal(tmp_path: Path) -> None:
    code = """
import os, sys, time
assert os.getsid(0) == os.getpid()
assert not sys.stdin.read()
open(sys.argv[1], "w").close()
time.sleep(600)
"""
    with Supervisor(
        [command("child", *python(code, tmp_path / "fine"), ready=exists(tmp_path / "fine"))]
    ) as supervisor:
        assert supervisor.wait_ready(20)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks /proc")
def test_signals_that_python_ignores_are_not_ignored_in_the_child(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shell = f"grep SigIgn /proc/self/status > {out}; exec sleep 600"  # a child in Python would set its own
    written = lambda: out.exists() and out.stat().st_size > 0  # noqa: E731
    with Supervisor([command("child", "sh", "-c", shell, ready=written)]) as supervisor:
        assert supervisor.wait_ready(20)
    assert not int(out.read_text().split()[1], 16) & (1 << (signal.SIGPIPE - 1))


def test_what_dies_is_started_again_alone() -> None:
    with Supervisor([command("one", *python(SLEEP)), command("two", *python(SLEEP))]) as supervisor:
        assert supervisor.wait_ready(20)
        killed, other = pid_of(supervisor, "two"), pid_of(supervisor, "one")
        os.kill(killed, signal.SIGKILL)
        wait_for("a second start", lambda: starts_of(supervisor, "two") == 2)
        wait_for("ready again", lambda: supervisor.status()[1].state is State.READY)
        assert pid_of(supervisor, "two") != killed
        assert pid_of(supervisor, "one") == other


def test_a_child_that_was_ready_is_started_again_for_ever() -> None:
    with Supervisor([command("crasher", *python(SLEEP), restart=replace(QUICK, give_up_after=2))]) as supervisor:
        assert supervisor.wait_ready(20)
        for start in range(2, 7):
            os.kill(pid_of(supervisor, "crasher"), signal.SIGKILL)
            wait_for("another start", lambda start=start: starts_of(supervisor, "crasher") == start)
            wait_for("ready", lambda: supervisor.status()[0].state is State.READY)


def test_pauses_double_up_to_a_limit() -> None:
    restart = Restart(first_pause_s=0.2, longest_pause_s=5)
    assert [restart.pause(n) for n in range(7)] == [0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
    assert restart.pause(10_000) == 5


def test_what_cannot_start_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    code = "import sys; print('no such backbone', file=sys.stderr); sys.exit(3)"
    log = tmp_path / "logs" / "api.log"
    supervisor = Supervisor([command("sleeper", *python(SLEEP)), command("api", *python(code), settle_s=5, log=log)])
    supervisor.start()
    with pytest.raises(
        ChildError, match=r"(?s)api could not be started 3 times in a row: exit code 3.*no such backbone"
    ):
        supervisor.join(30)
    assert starts_of(supervisor, "api") == 3
    assert [child.pid for child in supervisor.status()] == [None, None]
    assert log.read_text().count("no such backbone") == 3


def test_a_final_exit_code_is_not_tried_again() -> None:
    final = replace(QUICK, final_codes=frozenset({2}))
    supervisor = Supervisor([command("api", *python("raise SystemExit(2)"), settle_s=5, restart=final)])
    supervisor.start()
    with pytest.raises(ChildError, match="api could not be started: exit code 2"):
        supervisor.wait_ready(30)
    assert starts_of(supervisor, "api") == 1


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log"
    supervisor = Supervisor([command("broker", "/no/such/server", log=log, settle_s=5)])
    supervisor.start()
    with pytest.raises(ChildError, match=r"(?s)broker could not be started.*/no/such/server: cannot be run"):
        supervisor.join(30)


def test_one_that_never_becomes_ready_is_killed_and_given_up() -> None:
    seen: list[int] = []
    hopeless = command(
        "api",
        *python(SLEEP),
        ready=lambda: bool(seen.append(1)),
        ready_timeout_s=0.1,
        restart=replace(QUICK, give_up_after=2),
    )
    supervisor = Supervisor([hopeless])
    supervisor.start()
    with pytest.raises(ChildError, match=r"2 times in a row: not ready after 0\.1 s"):
        supervisor.join(30)
    assert seen


def test_a_failing_readiness_probe_means_not_yet() -> None:
    calls: list[int] = []

    def probe() -> bool:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionRefusedError
        return True

    with Supervisor([command("api", *python(SLEEP), ready=probe)]) as supervisor:
        assert supervisor.wait_ready(20)
    assert len(calls) == 3


def test_before_start_hears_how_the_run_before_ended() -> None:
    heard: list[Ended | None] = []
    with Supervisor([command("child", *python(SLEEP), before_start=heard.append)]) as supervisor:
        assert supervisor.wait_ready(20)
        os.kill(pid_of(supervisor, "child"), signal.SIGKILL)
        wait_for("a second start", lambda: starts_of(supervisor, "child") == 2)
    assert heard == [None, Ended(-signal.SIGKILL, "killed by SIGKILL", was_ready=True)]


def test_an_error_in_before_start_ends_everything_with_its_words() -> None:
    def before(_: Ended | None) -> None:
        raise OSError("the disk is full")

    supervisor = Supervisor([command("one", *python(SLEEP)), command("two", *python(SLEEP), before_start=before)])
    supervisor.start()
    with pytest.raises(ChildError, match="the disk is full"):
        supervisor.join(30)
    assert [child.pid for child in supervisor.status()] == [None, None]


def test_one_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    pidfile = tmp_path / "grandchild"
    deaf = command("worker", *python(PARENT, pidfile, "deaf"), ready=exists(pidfile), stop_timeout_s=0.3)
    with Supervisor([deaf]) as supervisor:
        assert supervisor.wait_ready(20)
        grandchild, child = number_in(pidfile), pid_of(supervisor, "worker")
    assert not alive(child)
    wait_gone([grandchild])


def test_what_a_dead_child_leaves_behind_is_killed_before_it_is_started_again(tmp_path: Path) -> None:
    pidfile = tmp_path / "grandchild"
    with Supervisor([command("worker", *python(PARENT, pidfile, "hearing"), ready=exists(pidfile))]) as supervisor:
        assert supervisor.wait_ready(20)
        grandchild = number_in(pidfile)
        os.kill(pid_of(supervisor, "worker"), signal.SIGKILL)
        wait_gone([grandchild])


def test_hasten_does_not_wait_for_the_slow(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    deaf = command("worker", *python(DEAF, marker), ready=exists(marker), stop_timeout_s=600)
    supervisor = Supervisor([deaf])
    supervisor.start()
    assert supervisor.wait_ready(20)
    supervisor.stop()
    assert not supervisor.join(1)
    supervisor.hasten()
    assert supervisor.join(20)


def test_stop_while_starting_ends_at_once() -> None:
    supervisor = Supervisor([command("slow", *python(SLEEP), ready=lambda: False, ready_timeout_s=600)])
    supervisor.start()
    wait_for("the start", lambda: supervisor.status()[0].pid)
    supervisor.stop()
    assert supervisor.join(20)
    assert not supervisor.wait_ready(0)


def test_on_stopping_comes_before_the_first_signal(tmp_path: Path) -> None:
    diary, seen = tmp_path / "diary", []
    child = command("api", *python(DIARY, diary, "api"), ready=exists(tmp_path / "diary.api"))
    with Supervisor([child], on_stopping=lambda: seen.append(diary.read_text())) as supervisor:
        assert supervisor.wait_ready(20)
    assert seen == ["api start\n"]


def test_environment_folder_and_descriptors_reach_the_child(tmp_path: Path) -> None:
    held, ours = os.pipe()
    code = f"import os, time; os.write({ours}, (os.environ['NPT_X'] + os.getcwd()).encode()); time.sleep(600)"
    child = command("child", *python(code), env={"NPT_X": "é"}, cwd=tmp_path, pass_fds=(ours,))
    try:
        with Supervisor([child]) as supervisor:
            assert supervisor.wait_ready(20)
            assert os.read(held, 4096).decode() == f"é{tmp_path}"
    finally:
        os.close(held)
        os.close(ours)


def test_two_commands_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two commands have one name"):
        Supervisor([command("a", "true"), command("a", "true")])


SUPERVISED = """
import sys
from worker.supervise import Command, Supervisor
grandchild, marker, lock = sys.argv[1:4]
parent, deaf = {parent!r}, {deaf!r}
run = [sys.executable, "-I", "-S", "-c"]
file = open(lock, "w")
import fcntl, pathlib
fcntl.flock(file, fcntl.LOCK_EX)
supervisor = Supervisor([
    Command("deaf", [*run, deaf, marker], stop_timeout_s=0.5, ready=pathlib.Path(marker).exists),
    Command("worker", [*run, parent, grandchild, "hearing"], stop_timeout_s=0.5, ready=pathlib.Path(grandchild).exists),
], keep_fds=[file.fileno()])
supervisor.start()
supervisor.wait_ready(30)
print("ready", flush=True)
supervisor.join()
"""


@pytest.fixture
def supervised(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A supervisor in a process of its own with a deaf child and one that has a child."""
    code = SUPERVISED.format(parent=PARENT, deaf=DEAF)
    arguments = [str(tmp_path / name) for name in ("grandchild", "marker", "lock")]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    while line := process.stdout.readline():
        if line == b"ready\n":
            break
    else:
        raise AssertionError("the supervisor did not start")
    members = family(process.pid)
    assert number_in(tmp_path / "grandchild") in members
    yield process, members
    process.kill()
    process.wait()
    process.stdout.close()
    wait_gone(members)


def lock_is_free(path: Path) -> bool:
    import fcntl

    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def test_kill_9_of_the_supervisor_leaves_nothing(
    supervised: tuple[subprocess.Popen[bytes], list[int]], tmp_path: Path
) -> None:
    process, members = supervised
    assert len(members) == 5  # itself, its guard, two children, one grandchild
    process.kill()
    process.wait()
    wait_gone(members)
    assert lock_is_free(tmp_path / "lock")


def test_the_guard_keeps_the_lock_until_the_children_are_gone(
    supervised: tuple[subprocess.Popen[bytes], list[int]], tmp_path: Path
) -> None:
    process, members = supervised
    children = [pid for pid in members[1:] if "guard" not in psutil.Process(pid).cmdline()]
    assert len(children) == 3
    process.kill()
    process.wait()
    wait_for("the lock to be free", lambda: lock_is_free(tmp_path / "lock"))
    assert not [pid for pid in children if alive(pid)]


def test_a_killed_guard_is_replaced_and_knows_everybody(
    supervised: tuple[subprocess.Popen[bytes], list[int]],
) -> None:
    process, members = supervised

    def guards() -> list[psutil.Process]:
        found = psutil.Process(process.pid).children()
        return [p for p in found if alive(p.pid) and "guard" in p.cmdline()]

    (first,) = guards()
    first.terminate()  # not its business: it ends with the pipe
    time.sleep(0.3)
    assert [p.pid for p in guards()] == [first.pid]
    first.kill()
    wait_for("another guard", lambda: [p for p in guards() if p.pid != first.pid])
    process.kill()
    process.wait()
    wait_gone(members)


def test_without_a_death_signal_the_guard_alone_ends_everybody(tmp_path: Path) -> None:
    """As on macOS: the children are no children of anybody who asks for a death signal."""
    marker, pidfile = tmp_path / "marker", tmp_path / "grandchild"
    deaf = subprocess.Popen(python(DEAF, marker), start_new_session=True)
    parent = subprocess.Popen(python(PARENT, pidfile, "hearing"), start_new_session=True)
    wait_for("the deaf one", marker.exists)
    grandchild = number_in(pidfile)
    theirs, ours = os.pipe()
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", str(ROOT / "worker" / "launch.py"), "guard", str(theirs), "0.5"],
        pass_fds=(theirs,),
        start_new_session=True,
    )
    os.close(theirs)
    bystander = subprocess.Popen(python(SLEEP), start_new_session=True)
    os.write(ours, f"+{deaf.pid}\n+{bystander.pid}\n+{parent.pid}\n-{bystander.pid}\n".encode())
    os.close(ours)
    assert parent.wait(20) == -signal.SIGTERM
    assert deaf.wait(20) == -signal.SIGKILL
    wait_gone([grandchild])
    assert guard.wait(20) == 0
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
