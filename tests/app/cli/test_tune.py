"""`npt tune` against a real server and without one, `npt predict`, `npt report`."""

from __future__ import annotations

import json
import os
import re
import zipfile
from pathlib import Path

import pytest

from app.cli.exits import CommandError
from app.cli.predict import expanded
from app.cli.tune import settings_of
from tests.support.api import Api, store_model
from tests.support.terminal import in_terminal, npt

QUICK = ("--method", "linear_probe")
MODEL = re.compile(r"model_[0-9a-z]{26}")
JOB = re.compile(r"job_[0-9a-z]{26}")


@pytest.mark.usefixtures("working")
def test_from_a_folder_to_an_answer(api: Api, pictures: Path, tmp_path: Path) -> None:
    tuned = npt("tune", pictures, *QUICK, "--name", "cli", "--wait", "--alias", "cli-best", NPT_URL=api.url)
    assert tuned.returncode == 0, tuned.stderr
    assert "Accuracy on images it was not tuned on: zero-shot" in tuned.stdout
    (model,) = set(MODEL.findall(tuned.stdout))
    assert f"npt report {model}" in tuned.stderr
    assert re.search(r"encoding +\d+\.\d s", tuned.stderr)  # a line a phase where nobody looks

    answers = npt("predict", "cli-best", pictures / "red", "-k", "2", NPT_URL=api.url)
    assert answers.returncode == 0, answers.stderr
    rows = answers.stdout.splitlines()
    assert rows[0].split() == ["IMAGE", "CLASS", "PROBABILITY", "OTHERS"]
    assert len(rows) == 5
    assert str(pictures / "red" / "000.png") in rows[1]

    report = npt("report", "cli-best", NPT_URL=api.url)
    assert report.returncode == 0, report.stderr
    assert "PRECISION" in report.stdout
    page = npt("report", "cli-best", "-o", tmp_path / "report.html", NPT_URL=api.url)
    assert page.stdout.strip() == str(tmp_path / "report.html")
    assert "<html" in (tmp_path / "report.html").read_text()
    assert json.loads(npt("report", "cli-best", "--json", NPT_URL=api.url).stdout)["metrics"]["tuned"]


@pytest.mark.usefixtures("working")
def test_json_alone_on_stdout(api: Api, pictures: Path) -> None:
    started = npt("tune", pictures, *QUICK, "--json", NPT_URL=api.url)
    job = json.loads(started.stdout)
    watched = npt("jobs", "watch", job["id"], "--json", NPT_URL=api.url)
    events = [json.loads(line) for line in watched.stdout.splitlines()]
    assert events[0]["event"] == "snapshot"
    assert events[-1]["event"] == "end"
    assert events[-1]["data"]["status"] == "succeeded"
    waited = npt("tune", pictures, *QUICK, "--wait", NPT_URL=api.url, NPT_JSON="true")
    assert json.loads(waited.stdout)["model_id"]


def test_without_wait_it_says_how_to_go_on(api: Api, pictures: Path) -> None:
    done = npt("tune", pictures, *QUICK, NPT_URL=api.url)
    job = done.stdout.strip()
    assert JOB.fullmatch(job)
    assert f"npt jobs watch {job}" in done.stderr
    stopped = npt("jobs", "cancel", job, NPT_URL=api.url)
    assert stopped.returncode == 0, stopped.stderr
    watched = npt("jobs", "watch", job, NPT_URL=api.url)
    assert watched.returncode == 1
    assert f"The job {job} did not succeed" in watched.stderr
    again = npt("jobs", "cancel", job, "--json", NPT_URL=api.url)
    assert again.returncode == 1
    assert json.loads(again.stderr)["error"]["code"] == "job-finished"


def test_ctrl_c_ends_the_looking_on_and_not_the_job(api: Api, pictures: Path) -> None:
    with in_terminal(["tune", pictures, "--wait"], NPT_URL=api.url) as terminal:
        terminal.wait_for("queued")  # nobody works on it
        terminal.interrupt()
        assert terminal.end() == 130
        job = JOB.findall(terminal.text)[0]
        terminal.wait_for(f"Stop it: npt jobs cancel {job}")
    assert f"The job {job} goes on." in terminal.text
    assert "Traceback" not in terminal.text
    assert api.services.jobs.get(job).status == "queued"
    api.services.cancel_job(job)


def test_a_bar_in_a_terminal(api: Api, pictures: Path, working: None) -> None:
    with in_terminal(["tune", pictures, *QUICK, "--wait"], NPT_URL=api.url) as terminal:
        terminal.wait_for("succeeded")
        assert terminal.end() == 0
    assert "━" in terminal.text
    assert MODEL.search(terminal.text)


def test_a_bar_while_a_large_zip_is_sent(api: Api, pictures: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.zip"
    with zipfile.ZipFile(large, "w") as made:
        for path in sorted(pictures.rglob("*.png")):
            made.write(path, path.relative_to(pictures))
        made.writestr("__MACOSX/padding", os.urandom(5_000_000))
    with in_terminal(["datasets", "add", large, "--no-audit"], NPT_URL=api.url) as terminal:
        terminal.wait_for("12 images")
        assert terminal.end() == 0
    assert "sending" in terminal.text
    assert "5.0/5.0 MB" in terminal.text
    assert terminal.text.count("\n") <= 4  # one bar, and the two lines of the result
    quiet = npt("datasets", "add", large, "--no-audit", NPT_URL=api.url)
    assert "sending" not in quiet.stderr  # nobody looks


@pytest.mark.usefixtures("working")
def test_what_the_server_refuses_is_said_in_its_words(api: Api, pictures: Path, tmp_path: Path) -> None:
    wrong = npt("tune", pictures, "--set", "lr=-1", "--set", "epochs=many", NPT_URL=api.url)
    assert wrong.returncode == 1
    assert "lr" in wrong.stderr
    assert "epochs" in wrong.stderr
    told = npt("tune", pictures, "--set", "lr=-1", "--json", NPT_URL=api.url)
    error = json.loads(told.stderr)["error"]
    assert told.stdout == ""
    assert error["errors"][0]["path"].endswith("lr")
    (tmp_path / "one" / "red").mkdir(parents=True)
    (tmp_path / "one" / "red" / "a.png").write_bytes((pictures / "red" / "000.png").read_bytes())
    alone = npt("tune", tmp_path / "one", NPT_URL=api.url)
    assert alone.returncode == 1
    assert "class" in alone.stderr
    nothing = npt("predict", "no-such-model", pictures, NPT_URL=api.url)
    assert nothing.returncode == 1
    assert "There is no model and no alias 'no-such-model'" in nothing.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tune",), "takes a folder or a zip"),
        (("tune", "."), None),
        (("tune", "nowhere"), "no folder and no zip 'nowhere'"),
        (("tune", ".", "--dataset", "x"), "not both"),
        (("tune", ".", "--alias", "a"), "add --wait"),
        (("tune", ".", "--output", "x"), "belongs to --local"),
        (("tune", ".", "--set", "lr"), "write KEY=VALUE"),
        (("tune", ".", "--config", "{"), "is no JSON"),
        (("tune", "--local", "--dataset", "x"), "works without a server"),
        (("predict", "champion", "nowhere.png"), "no image and no folder 'nowhere.png'"),
        (("predict", "./nowhere", "README.md"), None),
        (("export", "champion", "-o", "nowhere/x.zip"), None),
        (("models", "list", "--limit", "0"), "--limit"),
    ],
)
def test_nonsense_is_told_before_anything_is_done(arguments: tuple[str, ...], words: str | None) -> None:
    done = npt(*arguments, NPT_URL="http://127.0.0.1:1")
    if words is None:
        assert done.returncode in (1, 3)
    else:
        assert done.returncode == 2
        assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [("models", "list"), ("jobs", "list"), ("datasets", "list"), ("aliases", "list"), ("report", "champion")],
    ids=" ".join,
)
def test_where_no_server_answers_the_code_is_3(arguments: tuple[str, ...], plain: Api) -> None:
    for url, words in (
        ("http://127.0.0.1:1", "npt serve"),
        (f"{plain.url}/docs", "is no NPT Service"),
    ):
        done = npt(*arguments, NPT_URL=url)
        assert done.returncode == 3
        assert words in done.stderr
    assert npt(*arguments, "--url", "ftp://x").returncode == 2
    told = npt(*arguments, "--json", "--url", "http://127.0.0.1:1")
    assert json.loads(told.stderr)["error"]["code"] == "unreachable"


def test_without_a_server(pictures: Path, tmp_path: Path) -> None:
    done = npt("tune", pictures, "--local", *QUICK, "--name", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "mine-classifier"
    assert "knows shapes, digits and letters and no photographs" in done.stderr
    assert sorted(path.name for path in (tmp_path / "mine-classifier").iterdir()) == [
        "classifier.safetensors",
        "manifest.json",
        "report.json",
    ]
    again = npt("tune", pictures, "--local", *QUICK, "--name", "mine", cwd=tmp_path)
    assert again.returncode == 2
    assert "holds a classifier already" in again.stderr

    (tmp_path / "broken.png").write_text("no picture")
    answers = npt("predict", "mine-classifier", pictures / "blue", "broken.png", "--json", cwd=tmp_path)
    assert answers.returncode == 1
    rows = [json.loads(line) for line in answers.stdout.splitlines()]
    assert [bool(row.get("error")) for row in rows] == [False] * 4 + [True]
    assert {"label", "probability", "similarity"} == rows[0]["top"][0].keys()
    assert "1 of 5 images" in answers.stderr

    report = npt("report", "mine-classifier", "-o", tmp_path / "r.html", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    assert "<html" in (tmp_path / "r.html").read_text()
    assert "CLASSES, WEAKEST FIRST" in npt("report", "./mine-classifier", cwd=tmp_path).stdout


def test_a_zip_and_wrong_settings_without_a_server(pictures: Path, tmp_path: Path) -> None:
    zipped = tmp_path / "colours.zip"
    with zipfile.ZipFile(zipped, "w") as out:
        for path in pictures.rglob("*.png"):
            out.write(path, path.relative_to(pictures))
    wrong = npt("tune", zipped, "--local", "--set", "lr=-1", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "lr" in wrong.stderr
    done = npt("tune", zipped, "--local", "--method", "zero_shot", "-o", "out", "--json", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert facts["labels"] == ["blue", "green", "red"]
    assert (tmp_path / facts["classifier"] / "manifest.json").is_file()


def test_a_classifier_of_this_machine_goes_to_the_server_and_back(
    api: Api, towers: tuple[str, str], pictures: Path, tmp_path: Path
) -> None:
    made = store_model(api.services, towers[0], name="travels", labels=("red", "green", "violet"))
    out = npt("export", made, "-o", tmp_path, NPT_URL=api.url)
    assert out.returncode == 0, out.stderr
    assert Path(out.stdout.strip()) == tmp_path / f"{made}.zip"
    there = npt("export", made, "-o", tmp_path, NPT_URL=api.url)
    assert there.returncode == 2
    assert "--force" in there.stderr
    known = npt("import", tmp_path / f"{made}.zip", "--json", NPT_URL=api.url)
    assert json.loads(known.stdout)["id"] == made  # the same content is one model

    unknown = npt("predict", tmp_path / f"{made}.zip", pictures / "red" / "000.png")
    assert unknown.returncode == 2
    assert "Say where its weights are" in unknown.stderr


def test_a_folder_is_imported_like_a_zip(api: Api, pictures: Path, tmp_path: Path, towers: tuple[str, str]) -> None:
    from npt_core import tune

    tune(pictures, {"method": "linear_probe"}, backbone=towers[0]).classifier.save(tmp_path / "mine")
    done = npt("import", tmp_path / "mine", "--name", "from-here", NPT_URL=api.url)
    assert done.returncode == 0, done.stderr
    model = done.stdout.strip()
    assert api.services.models.get(model).name == "from-here"
    answers = npt("predict", model, pictures / "red" / "000.png", "--json", NPT_URL=api.url)
    assert json.loads(answers.stdout)["model"] == model


def test_settings_come_together(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"epochs": 3, "method": "coop"}')
    found = settings_of(
        str(tmp_path / "c.json"),
        ["method_config.n_ctx=8", "lr=0.002", "resize=pad", 'class_names={"a": "b"}'],
        {"method": "kgcoop", "shots": None},
    )
    assert found == {
        "epochs": 3,
        "method": "kgcoop",
        "method_config": {"n_ctx": 8},
        "lr": 0.002,
        "resize": "pad",
        "class_names": {"a": "b"},
    }
    for wrong in ("[1]", "nowhere.json"):
        with pytest.raises(CommandError):
            settings_of(wrong, [], {})
    with pytest.raises(CommandError, match="set to something else"):
        settings_of(None, ["a=1", "a.b=2"], {})


def test_images_in_folders_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.JPG", "a.webp", ".hidden/x.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    names = [path.relative_to(tmp_path).as_posix() for path in expanded([tmp_path])]
    assert names == ["a.webp", "b/10.JPG", "b/2.png"]
    with pytest.raises(CommandError, match="holds no image"):
        expanded([tmp_path / "empty"])


def test_many_images_go_in_parts(api: Api, towers: tuple[str, str], pictures: Path, tmp_path: Path) -> None:
    model = store_model(api.services, towers[0])
    data = (pictures / "red" / "000.png").read_bytes()
    (tmp_path / "many").mkdir()
    for number in range(70):
        (tmp_path / "many" / f"{number:03d}.png").write_bytes(data)
    done = npt("predict", model, tmp_path / "many", "--json", "-k", "1", NPT_URL=api.url)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(row["filename"]).stem for row in rows] == [f"{n:03d}" for n in range(70)]
