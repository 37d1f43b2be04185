"""What `Integrity` finds: every kind of damage by id, nothing where nothing is wrong, and no end of the walk."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from npt_core.data.edit import Edit
from tests.support.in_process import runner
from tests.support.zips import classes, write_zip
from worker.errors import CorruptRecordError
from worker.feedback import FeedbackSettings, Unsure
from worker.ids import new_id
from worker.integrity import Damage, Integrity
from worker.records import ModelDraft
from worker.service import Services


def walk(services: Services) -> list[Damage]:
    integrity = Integrity(services.store)
    return [damage for kind, name in integrity.things() for damage in integrity.look(kind, name).damage]


def add_model(services: Services) -> str:
    """A model of two files, kept as a job keeps one."""
    model_id = new_id("model")
    folder = services.store.path(f"uploads/{model_id}")
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "of": model_id}))
    (folder / "classifier.safetensors").write_bytes(b"0123456789" * 10)
    services.models.prepare(folder, ModelDraft(backbone="none", method="coop"), model_id=model_id, job_id=None)
    assert services.models.promote(f"uploads/{model_id}", model_id)
    return model_id


def unsure(number: int) -> Unsure:
    return Unsure(filename=f"{number}.png", picture=b"picture %d" % number, answer=(("cat", 0.4), ("dog", 0.35)))


def stored(services: Services) -> dict[str, str]:
    """One of everything, whole: ids by kind."""
    part = write_zip(services.store.part(), classes("cat", "dog"))
    dataset = services.datasets.add(part, "pets.zip")[0].id
    model = add_model(services)
    services.aliases.put("champion", model)
    done = services.start_job("sleep", {"steps": 1, "pause": 0})[0].id
    failed = services.start_job("fail", {})[0].id
    waiting = services.start_job("sleep", {})[0].id
    for _ in range(2):
        runner(services).run_next()
    services.jobs.files.save_checkpoint(waiting, 1, b"x" * 100)
    services.feedback.switch(model, FeedbackSettings(enabled=True, below=0.9))
    services.feedback.keep(model, [unsure(1), unsure(2)])
    return {"dataset": dataset, "model": model, "done": done, "failed": failed, "waiting": waiting}


@pytest.fixture
def ids(services: Services) -> dict[str, str]:
    return stored(services)


def flip(path: Path, at: int = -1) -> None:
    """One bit of a file turns."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at < 0 else at] ^= 1
    path.write_bytes(bytes(data))


def only(services: Services, store: Path) -> Path:
    (path,) = store.iterdir()
    return path


def test_nothing_is_wrong_with_what_was_just_written(services: Services, ids: dict[str, str]) -> None:
    integrity = Integrity(services.store)
    things = integrity.things()
    assert {kind for kind, _ in things} == {"model", "archive", "dataset", "job", "alias", "feedback"}
    looked = [integrity.look(*thing) for thing in things]
    assert [one.damage for one in looked if one.damage] == []
    assert all(one.bytes > 0 for one in looked)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def nonsense(path: Path) -> None:
    path.write_bytes(b'{"id": ')


def unlink(path: Path) -> None:
    path.unlink()


def renumbered(path: Path) -> None:
    """A digit turns into another: still the JSON of a record, and not the one that was written."""
    text = path.read_bytes()
    at = next(match.start() for match in re.finditer(rb"[0-8]", text))
    path.write_bytes(text[:at] + bytes([text[at] + 1]) + text[at + 1 :])
    json.loads(path.read_bytes())


def renamed(path: Path) -> None:
    """A letter of what a class is called turns: the pictures, and so the id, are the same."""
    text = path.read_bytes()
    assert b"a photo of a dog" in text or b'"dog"' in text
    at = text.rindex(b"dog")
    path.write_bytes(text[:at] + b"dig" + text[at + 3 :])
    json.loads(path.read_bytes())


CASES: list[tuple[str, str, Callable[[Path], None], str, str]] = [
    ("models/{model}/manifest.json", "model", flip, "{model}", "SHA-256 differs"),
    ("models/{model}/manifest.json", "model", truncate, "{model}", "was written with"),
    ("models/{model}/manifest.json", "model", unlink, "{model}", "is missing"),
    ("models/{model}/model.json", "model", nonsense, "{model}", "cannot be read"),
    ("models/{model}/model.json", "model", renumbered, "{model}", "cannot be read"),
    ("datasets/{dataset}/dataset.json", "dataset", renumbered, "{dataset}", "cannot be read"),
    ("datasets/{dataset}/manifest.json", "dataset", renamed, "{dataset}", "SHA-256 differs"),
    ("jobs/{done}/job.json", "job", renumbered, "{done}", "cannot be read"),
    ("jobs/{failed}/end.json", "job", renumbered, "{failed}", "cannot be read"),
    ("jobs/{done}/attempts/0001.json", "job", renumbered, "{done}", "cannot be read"),
    ("aliases/*", "alias", renumbered, "", "set the alias again"),
    ("feedback/{model}/settings.json", "feedback", renumbered, "{model}", "cannot be read"),
    ("datasets/{dataset}/dataset.json", "dataset", nonsense, "{dataset}", "delete the data set and send it again"),
    ("datasets/{dataset}/manifest.json", "dataset", truncate, "{dataset}", "cannot be read"),
    ("datasets/{dataset}/manifest.json", "dataset", unlink, "{dataset}", "manifest.json"),
    ("jobs/{done}/job.json", "job", nonsense, "{done}", "cannot be read"),
    ("jobs/{failed}/end.json", "job", nonsense, "{failed}", "cannot be read"),
    ("jobs/{done}/attempts/0001.json", "job", truncate, "{done}", "cannot be read"),
    ("jobs/{waiting}/checkpoint/0001", "job", flip, "{waiting}", "is damaged"),
    ("aliases/*", "alias", nonsense, "", "set the alias again"),
    ("feedback/{model}/settings.json", "feedback", nonsense, "{model}", "cannot be read"),
    ("feedback/{model}/items.sqlite3", "feedback", nonsense, "{model}", "cannot be read"),
]


@pytest.mark.parametrize(
    ("place", "kind", "harm", "name", "words"), CASES, ids=[f"{c[0]} {c[2].__name__}" for c in CASES]
)
def test_each_damage_is_told_by_id(
    services: Services,
    ids: dict[str, str],
    place: str,
    kind: str,
    harm: Callable[[Path], None],
    name: str,
    words: str,
) -> None:
    (path,) = services.store.root.glob(place.format(**ids))
    harm(path)
    found = walk(services)
    assert [one.kind for one in found] == [kind]
    assert name.format(**ids) in found[0].id
    assert words in f"{found[0].file} {found[0].what}"


def test_what_an_edit_did_turned(services: Services, ids: dict[str, str]) -> None:
    child = services.datasets.edit(ids["dataset"], Edit(("dog/0.png",), {}))[0]
    assert walk(services) == []
    renumbered(services.store.path(f"datasets/{child.id}/change.json"))
    (damage,) = walk(services)
    assert (damage.kind, damage.id, damage.file) == ("dataset", child.id, "change.json")
    assert "SHA-256 differs; what the edit did is not known any more" in damage.what
    with pytest.raises(CorruptRecordError, match="SHA-256 differs"):
        services.datasets.change(child.id)
    with services.datasets.open(child.id):
        pass


def test_a_manifest_that_turned_is_learned_from_by_nobody(services: Services, ids: dict[str, str]) -> None:
    renamed(services.store.path(f"datasets/{ids['dataset']}/manifest.json"))
    with pytest.raises(CorruptRecordError, match="cannot be read"):
        services.datasets.open(ids["dataset"])


def test_a_damaged_zip_says_which_pictures_it_cost(services: Services, ids: dict[str, str]) -> None:
    path = only(services, services.store.root / "archives")
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo("dog/1.png") if "dog/1.png" in archive.namelist() else archive.infolist()[-1]
    flip(path, entry.header_offset + 30 + len(entry.filename) + entry.compress_size // 2)
    found = walk(services)
    assert [(one.kind, one.id) for one in found] == [("archive", path.name), ("dataset", ids["dataset"])]
    assert f"1 of 6 pictures are damaged: {entry.filename}" in found[1].what


def test_a_zip_that_is_gone_or_no_zip_any_more(services: Services, ids: dict[str, str]) -> None:
    path = only(services, services.store.root / "archives")
    path.write_bytes(b"nothing of a zip is left")
    assert "6 of 6 pictures are damaged" in next(one.what for one in walk(services) if one.kind == "dataset")
    path.unlink()
    (damage,) = walk(services)
    assert (damage.kind, damage.file) == ("dataset", f"archives/{path.name}")


def test_an_alias_of_no_model(services: Services, ids: dict[str, str]) -> None:
    services.models.delete(ids["model"])
    assert ("alias", "champion") in {(one.kind, one.id) for one in walk(services)}


def test_a_record_in_the_wrong_place(services: Services, ids: dict[str, str]) -> None:
    path = services.store.path(f"models/{ids['model']}/model.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"id": "model_" + "0" * 26}))
    (damage,) = walk(services)
    assert "is the record of" in damage.what


def test_a_kept_picture_whose_bytes_turned(services: Services, ids: dict[str, str]) -> None:
    path = services.store.path(f"feedback/{ids['model']}/items.sqlite3")
    with sqlite3.connect(path) as database:
        database.execute("UPDATE item SET picture = x'00' WHERE id = (SELECT min(id) FROM item)")
    database.close()
    (damage,) = walk(services)
    assert damage.kind == "feedback"
    assert "the picture of item_" in damage.what


HOT = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
for number in range(200):
    database.execute("UPDATE item SET picture = randomblob(20000)")
os._exit(9)
"""


def test_a_write_that_a_crash_cut_off_is_no_damage(services: Services, ids: dict[str, str]) -> None:
    """SQLite takes it back when it is next opened, which reading alone does not."""
    path = services.store.path(f"feedback/{ids['model']}/items.sqlite3")
    subprocess.run([sys.executable, "-c", HOT, str(path)], check=False)
    files = {one: one.read_bytes() for one in path.parent.iterdir()}
    assert path.with_name(f"{path.name}-journal") in files
    assert walk(services) == []
    assert {one: one.read_bytes() for one in path.parent.iterdir()} == files  # nothing is changed


def test_many_damages_are_all_told_and_nothing_is_changed(services: Services, ids: dict[str, str]) -> None:
    other = stored(services)
    for place in ("models/{model}/model.json", "jobs/{done}/job.json"):
        for known in (ids, other):
            nonsense(services.store.path(place.format(**known)))
    root = services.store.root
    (root / "jobs" / ids["waiting"] / "job.json").unlink()
    (root / "jobs" / ids["waiting"] / "job.json").mkdir()  # a folder where a file should be
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if "run" not in path.parts}
    found = {one.id for one in walk(services)}
    assert found >= {ids["model"], other["model"], ids["done"], other["done"], ids["waiting"]}
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*") if "run" not in path.parts}


def test_what_is_deleted_meanwhile_is_no_damage(services: Services, ids: dict[str, str]) -> None:
    integrity = Integrity(services.store)
    things = integrity.things()
    for name in ("aliases", "models", "datasets", "archives", "jobs", "feedback"):
        services.store.delete(name)
    assert [integrity.look(*thing).damage for thing in things] == [()] * len(things)


def test_a_folder_in_the_making_is_no_damage(services: Services) -> None:
    services.store.path("jobs/job_" + "0" * 26).mkdir(parents=True)
    services.store.path("datasets/" + "a" * 64).mkdir(parents=True)
    assert walk(services) == []
