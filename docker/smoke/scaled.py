"""Several APIs behind the proxy, several workers: turns are taken, and one that goes away is not missed."""

from __future__ import annotations

import subprocess
import time

from compose import BASE, SCALE
from hardened import check_service, leave
from jobs import followed, long_job, same
from outcome import expect, wait_for
from stage import Stage


def scale(s: Stage) -> str:
    """Two APIs behind the proxy, two workers."""
    d = s.deployment
    leave(s, d)
    d.files = (BASE, SCALE)
    d.set(s.variables(PUBLISH="127.0.0.1:", PROXY_PUBLISH=f"127.0.0.1:{s.port}"))
    d.up()
    check_service(s, "proxy")
    same(s)
    seen = both_apis_answer(s)
    jobs = [long_job(s, 30) for _ in range(2)]
    wait_for("two jobs run at once", lambda: all(s.client.step_of(job) for job in jobs), s.within_s, 0.1)
    d.restart("proxy")
    wait_for("the proxy answers", s.client.is_ready, s.within_s)
    for job in jobs:
        s.client.step_of(job)  # an error where it has ended already
    events = followed(s, jobs[0])
    for job in jobs:
        s.client.wait_for_end(job)
    asked = one_api_less(s)
    return (
        f"each API got {seen} of 40 requests; two jobs at once, the proxy restarted under them, {events} events "
        f"through it; one API stopped during {asked} requests, none lost"
    )


def both_apis_answer(s: Stage) -> str:
    """Each of them got some of 40 requests."""
    for _ in range(40):
        s.client.get("/models")
    counts = []
    for address in s.deployment.ports("api"):
        lines = type(s.client)(f"http://{address}", None, s.within_s).call("GET", "/metrics").body.decode().splitlines()
        mine = [line for line in lines if line.startswith("npt_http_requests_total") and 'path="/models"' in line]
        counts.append(sum(float(line.rsplit(" ", 1)[1]) for line in mine))
    expect(len(counts) == 2 and min(counts) > 0, f"requests went to {counts}")
    return " and ".join(f"{count:.0f}" for count in counts)


def one_api_less(s: Stage) -> int:
    """Stopped while requests run, none of which is lost; how many ran."""
    leaving = s.deployment.containers("api")[0]["Id"]
    stopping = subprocess.Popen(["docker", "stop", leaving], stdout=subprocess.DEVNULL)
    asked, until = 0, time.monotonic() + s.within_s
    while stopping.poll() is None or asked < 100:
        s.client.get("/models")
        asked += 1
        expect(time.monotonic() < until, "the API does not stop")
    expect(stopping.returncode == 0, "the API cannot be stopped")
    same(s)
    return asked
