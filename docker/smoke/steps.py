"""The steps, in their order. Each does one thing as an operator or a client would, and says what it saw."""

from __future__ import annotations

import io
import json
import re
import secrets
import textwrap
import time
import zipfile
from collections.abc import Callable

from compose import BASE, Deployment, run
from hardened import check_service, leave, no_secret_is_seen
from jobs import followed, long_job, same
from outcome import LeftOut, expect, wait_for
from scaled import scale
from stage import PREVIOUS_TAG, TAG, Stage, image

OVERRIDE = "docker-compose.override.yml"
ENOUGH = 0.85
"""Accuracy on the held-out digits; 0.92 was seen."""


def images(s: Stage) -> str:
    """Both images, from the working tree."""
    s.deployment.build()
    api, worker = (image(f"npt-service-{name}:{TAG}") for name in ("api", "worker"))
    layers = api["RootFS"]["Layers"]
    expect(worker["RootFS"]["Layers"] == layers, "the images do not share their layers")
    if base := s.bases.get("PYTHON_IMAGE"):
        below = image(base)["RootFS"]["Layers"]
        expect(layers[: len(below)] == below, f"the images do not stand on {base}")
    return f"api {api['Size'] / 1e9:.2f} GB; the worker's layers are the same"


def start(s: Stage) -> str:
    """New volumes, no key."""
    d = s.deployment
    d.up()
    (redis,) = d.containers("redis")
    expect(redis["Config"]["Image"] == s.bases.get("REDIS_IMAGE", redis["Config"]["Image"]), "Redis has another image")
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
    expect("keys create" in s.deployment.logs(), "the log does not say that there was no key")
    s.hide("the first key", key)
    no_secret_is_seen(s, s.deployment)
    return f"accepted after {seconds:.1f} s, in no log"


def hardened(s: Stage) -> str:
    """As docker-compose.yml says, seen from inside and from the engine."""
    d = s.deployment
    for name in ("api", "worker", "redis"):
        check_service(s, name)
    expect(d.ports("api") == [f"127.0.0.1:{s.port}"], f"the API is published at {d.ports('api')}")
    expect(not d.ports("redis") and not d.ports("worker"), "redis or worker is published")
    without = d.execute("redis", "sh", "-c", "env -u REDISCLI_AUTH redis-cli ping || true")
    expect("NOAUTH" in without, f"Redis without its password says {without!r}")
    return "no root user, root file systems read-only, an init, redis with password and not published"


def prefetch(s: Stage) -> str:
    """Weights into their volume, by a container that ends."""
    said = s.deployment.compose("run", "--rm", "-T", "prefetch", "demo")
    expect(said.startswith("demo"), f"prefetch said {said!r}")
    return said.partition(";")[0].strip()


def tune(s: Stage) -> str:
    """The demo's path: a zip in, events followed to the end."""
    started = time.monotonic()
    job = s.client.tune(s.digits, "digits")
    events = followed(s, job, from_its_start=True)
    s.model = s.client.wait_for_end(job)["model_id"]
    return f"{time.monotonic() - started:.0f} s from the upload to the model, {events} events"


def predict(s: Stage) -> str:
    """Pictures that were in no upload, zero-shot and tuned."""
    labels = json.dumps(sorted({label for label, _, _ in s.held_out}))
    plain = s.accuracy(s.classify(s.client, model="zero-shot", labels=labels))
    expect(plain > ENOUGH, f"zero-shot only {plain:.3f} of the pictures were named rightly")
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
    packed, graph = (s.client.download(f"/models/{s.model}/export{form}") for form in ("", "?format=onnx"))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        names = archive.namelist()
        expect(archive.testzip() is None and any(name.endswith(".safetensors") for name in names), f"it has {names}")
    expect(len(graph) > 1_000_000, f"an ONNX file of {len(graph)} bytes has no image tower")
    return f"zip {len(packed) / 1e3:.0f} kB, ONNX {len(graph) / 1e6:.1f} MB"


def in_mid_job(s: Stage) -> str:
    """One job, and everything around it goes away once."""
    d, job, steps = s.deployment, long_job(s, 60), []
    steps.append(s.client.wait_for_step(job, attempt=1))
    d.restart("worker")
    steps.append(s.client.wait_for_step(job, attempt=2))
    crash(s, "worker")
    steps.append(s.client.wait_for_step(job, attempt=3))
    d.restart("redis")
    steps.append(s.client.wait_for_step(job, attempt=3, beyond=steps[-1]))
    d.restart("api")
    wait_for("the API is ready", s.client.is_ready, s.within_s)
    record = s.client.wait_for_end(job)
    d.wait_healthy()
    expect(s.accuracy(s.classify(s.client, model=record["model_id"])) > ENOUGH, "its model is no good")
    last = [event for event, _ in s.client.events(job)][-1:]
    expect(last == ["end"], f"the last of its events is {last}")
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
    before = {one["id"] for one in s.client.get("/jobs?limit=100")["items"]}
    step = s.client.wait_for_step(job, attempt=1)
    d.compose("rm", "--stop", "--force", "redis")
    run(["docker", "volume", "rm", d.volume("redis")])
    d.up()
    record = s.client.wait_for_end(job)
    after = {one["id"] for one in s.client.get("/jobs?limit=100")["items"]}
    expect(job in before and before <= after, f"of {len(before)} jobs {len(before - after)} are forgotten")
    return (
        f"volume removed at step {step}: succeeded in {record['attempts']} attempt(s), all {len(after)} jobs are known"
    )


def down_up(s: Stage) -> str:
    """Containers and network gone and made anew, with keys from a file this time."""
    d, key = s.deployment, f"from-a-file-{secrets.token_hex(24)}"
    leave(s, d)
    add_keys_file(s, key)
    d.up()
    same(s)
    s.hide("the key in the file", key)
    expect(s.with_key(key).call("GET", "/keys").status == 200, "the key in the file opens nothing")
    expect(s.with_key(key + "0").call("GET", "/keys").status == 401, "a key that is in no file is good as well")
    return "same key, same model, same probabilities; the key in NPT_API_KEYS_FILE is accepted, too"


def add_keys_file(s: Stage, key: str) -> None:
    """The override file of docs/deploy.md, and the keys that it mounts."""
    text = (s.repository / "docs" / "deploy.md").read_text()
    shown = [block for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S) if "NPT_API_KEYS_FILE" in block]
    expect(len(shown) == 1, f"docs/deploy.md shows {len(shown)} files with NPT_API_KEYS_FILE")
    d = s.deployment
    (d.folder / OVERRIDE).write_text(textwrap.dedent(shown[0]))
    keys = d.folder / "npt_keys"
    keys.write_text(f"# of a secret store\n{key}\n")
    keys.chmod(0o444)
    d.files = (BASE, OVERRIDE)


def backup_restore(s: Stage) -> str:
    """A tar file of the store, everything removed, and back."""
    d, file = s.deployment, s.folder / "store.tar"
    d.compose("stop", "api", "worker")
    d.backup(file)
    leave(s, d, "--volumes")
    expect(not d.what_is_left(), f"left after down --volumes: {d.what_is_left()}")
    d.files = (BASE,)
    d.restore(file)
    d.up()
    same(s)
    d.execute("api", "npt", "verify")
    return f"{file.stat().st_size / 1e6:.1f} MB; volumes removed and restored, same answers, npt verify: no damage"


def upgrade(s: Stage) -> str:
    """Begun with the previous version's image, gone on with by this one's."""
    if s.previous is None:
        raise LeftOut("no earlier version: no git history here")
    leave(s, s.deployment, "--volumes")
    d, started = s.upgraded, time.monotonic()
    d.build()
    rebuilt = time.monotonic() - started
    key = d.compose("run", "--rm", "-T", "--no-deps", "api", "npt", "keys", "create", "--scope", "admin").strip()
    s.client.key = key
    s.hide("the first key of the previous version", key)
    d.up()
    before = running_images(d)
    expect(set(before) == {f"npt-service-{name}:{PREVIOUS_TAG}" for name in ("api", "worker")}, f"running are {before}")
    s.model = s.client.wait_for_end(s.client.tune(s.digits, "digits", method="linear_probe"))["model_id"]
    s.answers = s.classify(s.client, model=s.model)
    job = long_job(s, 40)
    step = s.client.wait_for_step(job, attempt=1)
    d.set(s.variables(TAG))
    d.up()
    after = running_images(d)
    expect(set(after) == {f"npt-service-{name}:{TAG}" for name in ("api", "worker")}, f"running are {after}")
    expect(not set(after.values()) & set(before.values()), "the previous version's images are this one's")
    same(s)
    attempts = s.client.wait_for_end(job)["attempts"]
    expect(attempts >= 2, "the job was not handed over in its middle")
    later = s.client.wait_for_end(s.client.tune(s.digits, "digits", method="linear_probe"))["model_id"]
    version = s.client.get(f"/models/{later}")["version"]
    expect(version == 2, f"the next model of the same name is version {version}, not 2")
    return (
        f"from {s.previous[:12]}, its code built in {rebuilt:.0f} s: same key, same probabilities, a next version; "
        f"a job at step {step} was gone on with"
    )


def running_images(d: Deployment) -> dict[str, str]:
    """Names and ids of the images that API and worker run from."""
    return {one["Config"]["Image"]: one["Image"] for one in d.containers("api") + d.containers("worker")}


def gone(s: Stage) -> str:
    """Nothing is left but images."""
    for deployment in s.started:
        leave(s, deployment, "--volumes")
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
