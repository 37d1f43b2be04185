"""The whole main job over real HTTP: start the service, upload a zip, watch it tune, classify pictures it never saw.

    make demo                        (or: .venv/bin/python examples/demo.py)
    python examples/demo.py --url http://127.0.0.1:8000    use a service that already runs

It uses nothing of the project but its HTTP interface, so it is also the shortest example of a client. The last line
is for machines: `demo: zero_shot=0.62 tuned=0.91 upload_s=0.05 tune_s=12.3 predict_ms=4.1`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).resolve().parent
START_TIMEOUT_S = 120
JOB_TIMEOUT_S = 1800
IMAGES_PER_REQUEST = 64
console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


class DemoError(Exception):
    """Something did not work; the message is for the person who ran the demo."""


@contextlib.contextmanager
def running_service() -> Iterator[tuple[str, Path]]:
    """Start the embedded service on a free port with a data folder of its own; stop it and remove both at the end.

    Yields:
        Its URL, and the folder.
    """
    with tempfile.TemporaryDirectory(prefix="npt-demo-") as folder:
        log = Path(folder) / "service.log"
        env = os.environ | {"NPT_PORT": "0", "NPT_HOST": "127.0.0.1", "NPT_DATA_DIR": str(Path(folder) / "data")}
        env.pop("NPT_ROLE", None)
        with log.open("wb") as out:
            # A session of its own: Ctrl-C reaches only us, and we stop the service in order.
            process = subprocess.Popen(  # noqa: S603 - our own module, fixed arguments
                [sys.executable, "-m", "app"], cwd=HERE.parent, env=env, stdout=out, stderr=out, start_new_session=True
            )
        try:
            data = Path(folder) / "data"
            yield wait_until_ready(process, data / "run" / "service.json", log), data
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise DemoError("the service did not stop within 40 s of SIGTERM") from None


def wait_until_ready(process: subprocess.Popen[bytes], where: Path, log: Path) -> str:
    """The service writes its address when it listens; `/readyz` answers 200 when it can take work."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoError(f"the service ended with {process.returncode}:\n{tail(log)}")
        if where.exists():
            url = str(json.loads(where.read_text())["url"])
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz", timeout=5).status_code == httpx.codes.OK:
                    return url
        time.sleep(0.1)
    raise DemoError(f"the service was not ready within {START_TIMEOUT_S} s:\n{tail(log)}")


def tail(log: Path, lines: int = 5) -> str:
    """The last lines of a log file that are written for people: events are JSON."""
    written = [line for line in log.read_text(errors="replace").splitlines() if line and not line.startswith("{")]
    return "\n".join(written[-lines:])


def checked(response: httpx.Response) -> Any:
    """The JSON of a good answer; the server's own words for a bad one."""
    if response.is_success:
        return response.json()
    try:
        problem = response.json()
        text = "; ".join(
            [problem.get("detail") or problem["title"], *(e["message"] for e in problem.get("errors", []))]
        )
    except (ValueError, KeyError, AttributeError):
        text = response.text[:300]
    raise DemoError(f"{response.request.method} {response.request.url.path} answered {response.status_code}: {text}")


def server_sent_events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """(event, data) pairs of a `text/event-stream`."""
    event, data = "message", []
    for line in response.iter_lines():
        if line.startswith("event:"):
            event = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].strip())
        elif not line:
            if data:
                yield event, json.loads("\n".join(data))
            event, data = "message", []


def watch(client: httpx.Client, job_id: str) -> tuple[Any, dict[str, float]]:
    """Draw the job's live progress until it ends.

    Returns:
        The final job record, and the seconds spent in each phase.
    """
    seconds: dict[str, float] = {}
    phase, since, deadline = "queued", time.monotonic(), time.monotonic() + JOB_TIMEOUT_S
    columns = TextColumn("{task.description:<11}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(phase, total=None, note="")
        while True:
            try:
                with client.stream("GET", f"/jobs/{job_id}/events", timeout=httpx.Timeout(10, read=60)) as stream:
                    for _, data in server_sent_events(stream):
                        progress = data.get("progress") or data
                        now = time.monotonic()
                        if (new := progress.get("phase") or phase) != phase:
                            seconds[phase] = seconds.get(phase, 0.0) + now - since
                            if not console.is_terminal:
                                console.print(f"  {phase:<11} {now - since:6.1f} s")
                            phase, since = new, now
                        bar.update(
                            task,
                            description=phase,
                            note=note_of(progress),
                            total=progress.get("total_steps"),
                            completed=progress.get("step") or 0,
                        )
            except httpx.TransportError:
                time.sleep(0.5)  # a dropped stream costs nothing: the job record is asked, the stream resumed
            job = checked(client.get(f"/jobs/{job_id}"))
            if job["status"] in ("succeeded", "failed", "cancelled"):
                seconds[phase] = seconds.get(phase, 0.0) + time.monotonic() - since
                return job, seconds
            if time.monotonic() > deadline:
                raise DemoError(f"job {job_id} did not end within {JOB_TIMEOUT_S} s; it is {job['status']}")


def note_of(progress: dict[str, Any]) -> str:
    """What the bar says beside itself."""
    parts = []
    if progress.get("loss") is not None:
        parts.append(f"loss {progress['loss']:.3f}")
    if progress.get("accuracy") is not None:
        parts.append(f"batch accuracy {progress['accuracy']:.2f}")
    if progress.get("eta_seconds") is not None:
        parts.append(f"about {progress['eta_seconds']:.0f} s left")
    return "  ".join(parts)


def read_labelled(path: Path) -> list[tuple[str, str, bytes]]:
    """(label, filename, bytes) of every picture in a zip of class folders."""
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.endswith(".png")]
        return [(Path(n).parent.name, Path(n).name, archive.read(n)) for n in names]


def score(client: httpx.Client, pictures: list[tuple[str, str, bytes]], fields: dict[str, str]) -> tuple[float, float]:
    """Classify the pictures over HTTP.

    Returns:
        Accuracy in [0, 1], and milliseconds a picture.
    """
    right, started = 0, time.perf_counter()
    for at in range(0, len(pictures), IMAGES_PER_REQUEST):
        part = pictures[at : at + IMAGES_PER_REQUEST]
        files = [("images", (name, io.BytesIO(data), "image/png")) for _, name, data in part]
        answer = checked(client.post("/predict", data=fields | {"top_k": "1"}, files=files))
        for (label, name, _), prediction in zip(part, answer["predictions"], strict=True):
            if prediction.get("error"):
                raise DemoError(f"{name}: {prediction['error']}")
            right += prediction["top"][0]["label"] == label
    return right / len(pictures), 1000 * (time.perf_counter() - started) / len(pictures)


def geometry_table(before: dict[str, Any], after: dict[str, Any]) -> Table:
    """The class directions against the simplex frame, zero-shot and tuned."""
    table = Table(title="Geometry of the classes", title_justify="left")
    for column in ("", "zero-shot", "tuned", "at the simplex frame"):
        table.add_column(column, justify="left" if not column else "right")
    for key, ideal in (("equiangularity_mean", "0"), ("equiangularity_max", "0"), ("equinorm", "0"), ("duality", "1")):
        values = (before.get(key), after.get(key))
        table.add_row(key.replace("_", " "), *("-" if v is None else f"{v:.3f}" for v in values), ideal)
    return table


def run(url: str) -> str:
    """The demo itself against a service at `url`; returns its last line."""
    upload = HERE / "digits.zip"
    held_out = read_labelled(HERE / "digits_holdout.zip")
    labels = json.dumps(sorted({label for label, _, _ in held_out}))
    key = os.environ.get("NPT_API_KEY")
    with httpx.Client(base_url=url, timeout=120, headers={"Authorization": f"Bearer {key}"} if key else {}) as client:
        console.print(f"[bold]1. Upload[/] {upload.relative_to(HERE.parent)} to {url}/tune")
        started = time.perf_counter()
        with upload.open("rb") as file:
            answer = client.post(
                "/tune", files={"dataset": (upload.name, file, "application/zip")}, data={"name": "digits"}
            )
        job = checked(answer)
        upload_s = time.perf_counter() - started

        console.print(f"[bold]2. Tune[/] job {job['id']}")
        started = time.perf_counter()
        job, seconds = watch(client, job["id"])
        tune_s = time.perf_counter() - started
        if job["status"] != "succeeded":
            problem = job.get("error") or {}
            raise DemoError(
                f"the job {job['status']}: {problem.get('detail') or problem.get('title') or 'no reason given'}"
            )
        for warning in job["warnings"]:
            console.print(f"   [yellow]note[/] {warning}")
        model = job["model_id"]

        console.print(f"[bold]3. Predict[/] {len(held_out)} pictures that were in no upload, with model {model}")
        zero_shot, _ = score(client, held_out, {"model": "zero-shot", "labels": labels})
        tuned, predict_ms = score(client, held_out, {"model": model})
        report = checked(client.get(f"/models/{model}/report"))

    phases = Table(title="Seconds", title_justify="left", show_header=False)
    for phase, spent in {"upload": upload_s, **seconds}.items():
        phases.add_row(phase, f"{spent:.2f}")
    console.print(phases)
    console.print(geometry_table(report["geometry"]["zero_shot"], report["geometry"]["tuned"]))
    console.print(f"Held-out accuracy: zero-shot [bold]{zero_shot:.3f}[/], tuned [bold green]{tuned:.3f}[/]\n")
    console.print("By hand, with the service running (make serve):", markup=False)
    for command in (
        "curl -F dataset=@examples/digits.zip http://127.0.0.1:8000/tune",
        "curl http://127.0.0.1:8000/jobs/JOB_ID",
        "curl -N http://127.0.0.1:8000/jobs/JOB_ID/events",
        "unzip -o -q examples/digits_holdout.zip -d /tmp/digits",
        f"curl -F images=@/tmp/digits/{held_out[0][0]}/{held_out[0][1]} -F model=MODEL_ID http://127.0.0.1:8000/predict",
    ):
        console.print("  " + command, markup=False, soft_wrap=True)
    return (
        f"demo: zero_shot={zero_shot:.2f} tuned={tuned:.2f} upload_s={upload_s:.2f} tune_s={tune_s:.1f} "
        f"predict_ms={predict_ms:.1f}"
    )


def main() -> int:
    """Run the demo; 0 when everything worked."""
    parser = argparse.ArgumentParser(description="The whole main job over real HTTP.")
    parser.add_argument("--url", help="a service that already runs; without it, one is started and stopped")
    url = parser.parse_args().url
    # A terminated demo stops its service like an interrupted one.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        if url:
            last_line = run(url.rstrip("/"))
        else:
            console.print("[bold]0. Start[/] the embedded service on a free loopback port")
            with running_service() as (url, _):
                last_line = run(url)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    except (DemoError, httpx.HTTPError, OSError) as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return 1
    print(last_line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
