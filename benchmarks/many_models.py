"""One backbone, many classifiers: 1,000 tuned models asked for at random, beside one.

    .venv/bin/python -m benchmarks.many_models --prepare FOLDER      # tunes one, imports 1,000 variants over HTTP
    .venv/bin/python -m benchmarks.many_models --measure FOLDER

Demo backbone, where a picture costs least and whatever a model costs shows most. One model of ten drawn shapes is tuned
with CoOp, 16 images a class; each variant moves its context a little, encodes its names again, is exported and imported
as anybody's model would be. The clients are a process of their own on the same two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.over_http.judging import judge
from benchmarks.over_http.load import Load, Outcome, run
from benchmarks.over_http.pictures import write_pictures
from benchmarks.over_http.service import Service, running

MODELS, CLASSES, SHOTS = 1_000, 10, 16
CLIENTS, ROUNDS, SECONDS = 16, 5, 4.0
TIMED = 300
"""Models that one client asks for, one after the other: cold, and again warm."""
SEVERAL = 8
WANTED = {"rate": 0.9, "bytes": 64 * 1024, "cold_ms": 20.0}


# --- models -----------------------------------------------------------------------------------------------------------


def bundles(count: int, folder: Path) -> Iterator[bytes]:
    """So many models as exported files: one tuning, and contexts near its own."""
    import torch

    from npt_core import Classifier, Dataset, TuneConfig, tune
    from npt_core.bundle import Origin, pack
    from npt_core.clip import load_backbone
    from npt_core.clip.demo import draw
    from npt_core.clip.demo.vocabulary import SHAPE_NAMES

    backbone = load_backbone("demo", device="cpu")
    names = SHAPE_NAMES[:CLASSES]
    drawn = draw.draw_shapes(CLASSES * SHOTS, 7, names=names)
    for number, image in enumerate(drawn.images):
        place = folder / "pictures" / names[number % CLASSES]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    config = TuneConfig.from_dict({"method": "coop", "epochs": 10})
    first = tune(Dataset.from_folder(folder / "pictures"), config, backbone=backbone).classifier
    generator = torch.Generator().manual_seed(0)
    context = first.method.get_parameter("ctx").detach().clone()
    for number in range(count):
        with torch.no_grad():
            noise = torch.randn(context.shape, generator=generator) * context.std() * 0.05
            first.method.get_parameter("ctx").copy_(context + noise)
        own = Classifier(first.method, first.manifest, first.report, memory=first.memory)
        own.save(folder / str(number))
        yield b"".join(pack(folder / str(number), Origin(f"variant-{number}", f"variant-{number}")))


def prepare(data: Path, count: int) -> None:
    with tempfile.TemporaryDirectory() as folder, running(data, NPT_BACKBONE="demo") as service:
        for number, bundle in enumerate(bundles(count, Path(folder))):
            answer = service.client.post("/models/import", content=bundle, headers={"Content-Type": "application/zip"})
            if answer.status_code != 201:
                raise SystemExit(f"variant {number} was refused: {answer.text}")
    print(f"{count} models in {data}")


def ids(service: Service) -> list[str]:
    found: list[str] = []
    page: dict[str, Any] = {"next_cursor": None}
    while not found or page["next_cursor"]:
        cursor = {"cursor": page["next_cursor"]} if page["next_cursor"] else {}
        page = service.client.get("/models", params={"limit": 100, **cursor}).json()
        found += [one["id"] for one in page["items"]]
    return found


def forget_pages(data: Path) -> None:
    """Have the system drop what it holds of the models' files, so that they come from the disk."""
    for path in (data / "models").rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(data: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, running(data, NPT_BACKBONE="demo") as service:
        write_pictures(Path(folder), 64)
        models = ids(service)

        def ask(fields: Sequence[dict[str, Any]], **settings: Any) -> Outcome:
            found = run(Load(service.url, folder, list(fields), **settings))
            if set(found.statuses) != {"200"}:
                raise SystemExit(f"not every request was answered: {found.statuses}")
            return found

        one, every = [{"model": models[0]}], [{"model": model} for model in models]
        print(f"{len(models)} models of {CLASSES} classes\n")
        ask(one, clients=CLIENTS, seconds=SECONDS)  # everything that is made once is made now
        residents(service, ask, one, every, data)
        rates(ask, one, every)
        together(service, ask, models)


def residents(service: Service, ask: Any, one: Any, every: Any, data: Path) -> None:
    """Memory of a model, and what the first request for one waits for."""
    n, timed = len(every), every[:TIMED]
    ask(one, each=TIMED, seconds=600)
    forget_pages(data)
    before, counted = service.resident(), models_bytes(service)
    cold = ask(timed, each=len(timed), seconds=600, in_order=True)
    touch(ask, every[TIMED:])
    after, held = service.resident(), models_bytes(service)
    warm = ask(timed, each=len(timed), seconds=600, in_order=True)
    again = service.resident()
    each, own = (after - before) / n, (held - counted) / (n - 1)
    print("| | a model |\n|---|---|")
    print(f"| resident memory of the API, before and after all were asked once | {each / 1024:.1f} KiB |")
    print(f"| the same after another {len(timed)} requests | {(again - before) / n / 1024:.1f} KiB |")
    print(f"| what the cache counts (`npt_loaded_bytes`) | {own / 1024:.1f} KiB |\n")
    print("| one client, ms | median | 99 % |\n|---|---|---|")
    for name, outcome in (("cold: from the disk", cold), ("warm", warm)):
        print(f"| {name} | {1000 * outcome.percentile(0.5):.1f} | {1000 * outcome.percentile(0.99):.1f} |")
    added = 1000 * (cold.percentile(0.5) - warm.percentile(0.5))
    judge("resident bytes of a model", max(each, own), WANTED["bytes"], "at most", "{:.0f}")
    judge("ms that a cold model adds, medians", added, WANTED["cold_ms"], "at most", "{:.1f}")


def touch(ask: Any, fields: list[dict[str, Any]]) -> None:
    """Ask each of them once, several in a request."""
    if not fields:
        return
    groups = [[one["model"] for one in fields[start : start + SEVERAL]] for start in range(0, len(fields), SEVERAL)]
    ask([{"model": group} for group in groups], each=len(groups), seconds=600, in_order=True)


def models_bytes(service: Service) -> float:
    lines = service.client.get("/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith('npt_loaded_bytes{what="models"}'))


def rates(ask: Any, one: Any, every: Any) -> None:
    found: dict[str, list[float]] = {"one model": [], "all at random": []}
    for number in range(ROUNDS):  # in turns, so that a busy moment hits both
        for name, fields in (("one model", one), ("all at random", every)):
            outcome = ask(fields, clients=CLIENTS, seconds=SECONDS, warm_s=0.5, seed=number)
            found[name].append(outcome.rate)
    print(f"\n| {CLIENTS} clients, medians of {ROUNDS} | requests a second | least and most |\n|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {statistics.median(values):.0f} | {min(values):.0f} to {max(values):.0f} |")
    share = statistics.median(found["all at random"]) / statistics.median(found["one model"])
    judge("rate over all of them, of that over one", share, WANTED["rate"], "at least", "{:.2f}")


def together(service: Service, ask: Any, models: list[str]) -> None:
    print("\n| one client | ms, median | images encoded a request |\n|---|---|---|")
    for count in (1, SEVERAL):
        before = service.metric("npt_predict_batch_size_sum")
        outcome = ask([{"model": models[:count]}], each=200, seconds=60)
        images = (service.metric("npt_predict_batch_size_sum") - before) / len(outcome.seconds)
        print(f"| {count} model(s) in a request | {1000 * outcome.percentile(0.5):.1f} | {images:.2f} |")
    judge(f"images encoded for {SEVERAL} models", images, 1.0, "at most", "{:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--prepare", type=Path)
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--models", type=int, default=MODELS)
    arguments = parser.parse_args()
    if arguments.prepare:
        prepare(arguments.prepare.resolve(), arguments.models)
    if arguments.measure:
        measure(arguments.measure.resolve())
