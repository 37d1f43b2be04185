"""The steps, in their order. Each does one thing as an operator or a client would, and says what it saw."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

from compose import run
from outcome import LeftOut, expect, wait_for
from stage import TAG, Stage, image_size

ENOUGH = 0.85
"""Accuracy on the held-out digits; 0.92 was seen."""
FEW = 20
STEPS_AN_EPOCH = 4
"""128 of the 160 digits are tuned on, 32 at a time."""


def images(s: Stage) -> str:
    """Both images, from the working tree."""
    s.deployment.build()
    return f"api {image_size(f'npt-service-api:{TAG}')}; the worker's layers are the same"


def start(s: Stage) -> str:
    """New volumes, no key."""
    s.deployment.up()
    return "api, worker and redis are healthy"


def closed(s: Stage) -> str:
    """Before there is a key nobody gets in."""
    expect(s.client.call("GET", "/livez").status == 200, "/livez does not answer")
    for method, path in (("GET", "/jobs"), ("GET", "/models"), ("GET", "/keys"), ("POST", "/keys"), ("POST", "/tune")):
        status = s.client.call(method, path).status
        expect(status == 401, f"{method} {path} answered {status} without a key, before there was one")
    return "no key was ever made: /livez answers, everything else 401"


def first_key(s: Stage) -> str:
    """Made in the container, seen by whoever made it and by nobody else."""
    key = s.deployment.execute("api", "npt", "keys", "create", "--scope", "admin", "--label", "first").strip()
    expect(key.startswith("npt_") and len(key.split()) == 1, "`npt keys create` printed something else than a key")
    s.client.key = key
    seconds = wait_for("the key is accepted", lambda: s.client.call("GET", "/keys").status == 200, s.within_s, 0.1)
    logs = s.deployment.logs()
    expect("keys create" in logs, "the log does not say that there was no key")
    expect(key not in logs and key.split("_", 2)[2] not in logs, "the key is in the logs")
    expect(s.password not in logs, "the password of Redis is in the logs")
    return f"accepted after {seconds:.1f} s, in no log"


def hardened(s: Stage) -> str:
    """As docker-compose.yml says, seen from inside and from the engine."""
    d = s.deployment
    for name in ("api", "worker", "redis"):
        user = d.execute(name, "id", "-u").strip()
        expect(user == "10001" if name != "redis" else user not in ("0", ""), f"{name} runs as user {user}")
        first = d.execute(name, "cat", "/proc/1/cmdline")
        expect("init" in first.split("\0")[0], f"process 1 of {name} is {first!r}, no init")
        (container,) = d.containers(name)
        expect(not can_write(container["Id"]), f"the root file system of {name} can be written")
        expect(container["HostConfig"]["Memory"] > 0, f"{name} has no memory limit")
        top = run(["docker", "top", container["Id"]]).stdout.decode()
        expect(s.password not in top, f"the password of Redis is an argument of a process of {name}")
    expect(d.ports("api") == [f"127.0.0.1:{s.port}"], f"the API is published at {d.ports('api')}")
    expect(not d.ports("redis") and not d.ports("worker"), "redis or worker is published")
    without = d.execute("redis", "sh", "-c", "env -u REDISCLI_AUTH redis-cli ping || true")
    expect("NOAUTH" in without, f"Redis without its password says {without!r}")
    return "no root user, root file systems read-only, an init, redis with password and not published"


def can_write(container: str) -> bool:
    """Whether root could write outside of volumes; another user could not anyway."""
    return (
        subprocess.run(["docker", "exec", "-u", "0", container, "touch", "/here"], capture_output=True).returncode == 0
    )


def prefetch(s: Stage) -> str:
    """Weights into their volume, by a container that ends."""
    said = s.deployment.compose("run", "--rm", "-T", "prefetch", "demo")
    expect(said.startswith("demo"), f"prefetch said {said!r}")
    return said.partition(";")[0].strip()


def tune(s: Stage) -> str:
    """The demo's path: a zip in, events followed to the end."""
    started = time.monotonic()
    job = s.client.tune(s.digits, "digits")
    events = followed(s, job)
    s.model = s.client.wait_for_end(job)["model_id"]
    return f"{time.monotonic() - started:.0f} s from the upload to the model, {events} events"


def followed(s: Stage, job: str) -> int:
    """The events of a job, to its end; how many. How fast it went is what long jobs are made by."""
    seen, at = [], {}
    for event, data in s.client.events(job):
        seen.append(event)
        if event == "progress" and data.get("stage") == "held-out" and data.get("step"):
            at[data["step"]] = time.monotonic()
    if len(at) > 1 and (took := at[max(at)] - at[min(at)]) > 0:
        s.steps_per_s = (max(at) - min(at)) / took
    expect(seen[-1:] == ["end"] and "progress" in seen, f"the events were {seen[:3]} ... {seen[-3:]}")
    return len(seen)


def predict(s: Stage) -> str:
    """Pictures that were in no upload, zero-shot and tuned."""
    labels = json.dumps(sorted({label for label, _, _ in s.held_out}))
    plain = s.accuracy(s.classify(s.client, model="zero-shot", labels=labels))
    s.answers = s.classify(s.client, model=s.model)
    tuned = s.accuracy(s.answers)
    expect(tuned > ENOUGH, f"only {tuned:.3f} of the pictures were named rightly")
    return f"{len(s.answers)} pictures: zero-shot {plain:.3f}, tuned {tuned:.3f}"


def batch(s: Stage) -> str:
    """The same pictures as one zip."""
    job = s.client.form("/predict/batch", {"model": s.model}, [("file", "a.zip", s.held_out_zip, "application/zip")])
    s.client.wait_for_end(job["id"])
    rows = [json.loads(line) for line in s.client.download(f"/jobs/{job['id']}/results").splitlines()]
    best = {row["filename"]: row["top"][0]["label"] for row in rows if row["top"]}
    alone = {name: one["label"] for (_, name, _), one in zip(s.held_out, s.answers, strict=True)}
    differ = [name for name, label in alone.items() if best.get(name) != label]
    expect(not differ, f"{len(differ)} pictures are named otherwise than by /predict, {differ[:3]}")
    return f"{len(rows)} rows, the same labels as /predict"


def export(s: Stage) -> str:
    """The model as a zip, and as ONNX: the image has what that needs."""
    sizes = [len(s.client.download(f"/models/{s.model}/export{form}")) for form in ("", "?format=onnx")]
    return f"zip {sizes[0] / 1e3:.0f} kB, ONNX {sizes[1] / 1e6:.1f} MB"


def long_job(s: Stage, seconds: float) -> str:
    """A tuning that takes about so long on this machine, as it went before: long enough to be disturbed."""
    epochs = max(20, min(10_000, int(s.steps_per_s * seconds / STEPS_AN_EPOCH)))
    return s.client.tune(s.digits, "long", method="coop", epochs=epochs, refit=False)


def in_mid_job(s: Stage) -> str:
    """One job, and everything around it goes away once."""
    d, job, steps = s.deployment, long_job(s, 60), []
    steps.append(s.client.wait_for_step(job, attempt=1))
    d.compose("restart", "worker")
    steps.append(s.client.wait_for_step(job, attempt=2))
    crash(s, "worker")
    steps.append(s.client.wait_for_step(job, attempt=3))
    d.compose("restart", "redis")
    steps.append(s.client.wait_for_step(job, attempt=3, beyond=steps[-1]))
    d.compose("restart", "api")
    wait_for("the API is ready", s.client.is_ready, s.within_s)
    record = s.client.wait_for_end(job)
    d.wait_healthy()
    expect(s.accuracy(s.classify(s.client, model=record["model_id"])) > ENOUGH, "its model is no good")
    words = ("worker restarted", "worker killed", "redis restarted", "api restarted")
    what = ", ".join(f"{word} at step {step}" for word, step in zip(words, steps, strict=True))
    return f"{what}: one job, {record['attempts']} attempts, succeeded"


def crash(s: Stage, service: str) -> None:
    """Kill every process of a container but init, which ends for want of them; the restart policy brings it back."""
    (before,) = s.deployment.containers(service)
    kill = "import os, signal; os.kill(-1, signal.SIGKILL)"
    s.deployment.refuses(service, "python", "-c", kill)

    def back() -> bool:
        (now,) = s.deployment.containers(service)
        return now["RestartCount"] > before["RestartCount"] and now["State"]["Running"]

    wait_for(f"{service} is started again after a crash", back, s.within_s)


def redis_lost(s: Stage) -> str:
    """Redis, and its volume with everything in it, in mid-job."""
    d, job = s.deployment, long_job(s, 30)
    step = s.client.wait_for_step(job, attempt=1)
    d.compose("rm", "--stop", "--force", "redis")
    run(["docker", "volume", "rm", d.volume("redis")])
    d.up()
    record = s.client.wait_for_end(job)
    found = {one["id"] for one in s.client.get("/jobs?limit=100")["items"]}
    expect(job in found and len(found) >= 4, f"only {len(found)} jobs are known")
    return (
        f"volume removed at step {step}: succeeded in {record['attempts']} attempt(s), all {len(found)} jobs are known"
    )


def down_up(s: Stage) -> str:
    """Containers and network gone and made anew."""
    s.deployment.down()
    s.deployment.up()
    same(s)
    return "same key, same model, same probabilities"


def same(s: Stage) -> None:
    """The model answers what it answered first."""
    again = s.classify(s.client, FEW, model=s.model)
    first = s.answers[:FEW]
    expect([one["label"] for one in again] == [one["label"] for one in first], "labels have changed")
    off = max(abs(a["probability"] - b["probability"]) for a, b in zip(again, first, strict=True))
    expect(off < 1e-5, f"probabilities have changed by {off:.1e}")


def backup_restore(s: Stage) -> str:
    """A tar file of the store, everything removed, and back."""
    d, file, image = s.deployment, s.folder / "store.tar", f"npt-service-worker:{TAG}"
    d.compose("stop", "api", "worker")
    d.backup(file, image)
    d.down("--volumes")
    expect(not d.what_is_left(), f"left after down --volumes: {d.what_is_left()}")
    d.restore(file, image)
    d.up()
    same(s)
    d.execute("api", "npt", "verify")
    return f"{file.stat().st_size / 1e6:.1f} MB; volumes removed and restored, same answers, npt verify: no damage"


def scale(s: Stage) -> str:
    """Two APIs behind the proxy, two workers."""
    d = s.deployment
    d.down()
    d.files = ("docker-compose.yml", "docker-compose.scale.yml")
    d.set(s.variables(PUBLISH="127.0.0.1:", PROXY_PUBLISH=f"127.0.0.1:{s.port}"))
    d.up()
    same(s)
    seen = both_apis_answer(s)
    jobs = [long_job(s, 20) for _ in range(2)]
    wait_for("two jobs run at once", lambda: all(s.client.step_of(job) for job in jobs), s.within_s, 0.1)
    events = followed(s, jobs[0])
    for job in jobs:
        s.client.wait_for_end(job)
    asked = one_api_less(s)
    return (
        f"each API got {seen} of 40 requests; two jobs at once, {events} events through the proxy; "
        f"one API stopped during {asked} requests, none lost"
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


def upgrade(s: Stage) -> str:
    """Begun with the previous version's image, gone on with by this one's."""
    if s.previous is None:
        raise LeftOut("no earlier version: no git history here")
    s.deployment.down("--volumes")
    d, started = s.upgraded, time.monotonic()
    d.build()
    rebuilt = time.monotonic() - started
    key = d.compose("run", "--rm", "-T", "--no-deps", "api", "npt", "keys", "create", "--scope", "admin").strip()
    s.client.key = key
    d.up()
    s.model = s.client.wait_for_end(s.client.tune(s.digits, "digits", method="linear_probe"))["model_id"]
    s.answers = s.classify(s.client, model=s.model)
    d.set(s.variables(TAG))
    d.up()
    images = {one["Config"]["Image"] for one in d.containers("api") + d.containers("worker")}
    expect(images == {f"npt-service-api:{TAG}", f"npt-service-worker:{TAG}"}, f"running are {images}")
    same(s)
    later = s.client.wait_for_end(s.client.tune(s.digits, "digits", method="linear_probe"))["model_id"]
    version = s.client.get(f"/models/{later}")["version"]
    expect(version == 2, f"the next model of the same name is version {version}, not 2")
    return f"from {s.previous[:12]}, its code built in {rebuilt:.0f} s: same key, same probabilities, a next version"


def gone(s: Stage) -> str:
    """Nothing is left but images."""
    for deployment in s.started:
        deployment.down("--volumes")
        left = deployment.what_is_left()
        expect(not left, f"left of {deployment.project}: {left}")
    return "no container, volume or network is left"


STEPS: dict[str, Callable[[Stage], str]] = {
    "images": images,
    "start": start,
    "closed": closed,
    "first key": first_key,
    "hardened": hardened,
    "prefetch": prefetch,
    "tune": tune,
    "predict": predict,
    "batch": batch,
    "export": export,
    "restarts in mid-job": in_mid_job,
    "redis lost in mid-job": redis_lost,
    "down and up": down_up,
    "backup and restore": backup_restore,
    "scale": scale,
    "upgrade": upgrade,
    "down": gone,
}
