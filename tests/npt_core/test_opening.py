"""Paths and names where a data set, a backbone or a saved classifier is wanted."""

from __future__ import annotations

import doctest
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

import npt_core
from npt_core import Classifier, Dataset, load_backbone, tune
from npt_core.artefact import MANIFEST_FILE, TENSOR_FILE
from npt_core.bundle import Origin, pack
from npt_core.errors import (
    ArtefactError,
    BundleError,
    DatasetError,
    FingerprintMismatchError,
    UnknownBackboneError,
)
from npt_core.opening import DEMO_NOTE
from tests.support.api import ARCH, coloured_zip, write_towers
from tests.support.pictures import write_folder

ROOT = Path(__file__).resolve().parents[2]
QUICK: dict[str, Any] = {"epochs": 1, "views": 1, "method": "coop", "val_fraction": 0.5, "refit": False}
COUNTS = {"red": 4, "green": 4}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pictures", COUNTS)


@pytest.fixture
def saved(tmp_path: Path, folder: Path) -> Path:
    """A classifier on the demo backbone."""
    tune(folder, {"method": "zero_shot"}).classifier.save(tmp_path / "saved")
    return tmp_path / "saved"


def exported(saved: Path) -> Path:
    path = saved.with_suffix(".zip")
    path.write_bytes(b"".join(pack(saved, Origin("model_1"))))
    return path


def test_the_examples_of_the_package_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with zipfile.ZipFile(ROOT / "examples" / "digits_holdout.zip") as holdout:
        holdout.extract("7/0007.png", tmp_path / "holdout")
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(npt_core, raise_on_error=False)
    assert found.attempted >= 7
    assert found.failed == 0


def test_a_folder_and_a_zip_of_it_are_one_data_set(folder: Path, tmp_path: Path, backbone: Any) -> None:
    zipped = tmp_path / "pictures.zip"
    with zipfile.ZipFile(zipped, "w") as out:
        for path in folder.rglob("*.png"):
            out.write(path, path.relative_to(folder))
    with Dataset.open(folder) as one, Dataset.open(str(zipped)) as other:
        assert one.id == other.id
    results = [tune(source, QUICK, backbone=backbone) for source in (folder, str(zipped))]
    assert len({json.dumps(one.classifier.manifest["samples"]) for one in results}) == 1
    assert results[0].report.metrics == results[1].report.metrics


@pytest.mark.parametrize("open_it", [Dataset.open, tune])
def test_a_path_with_nothing_behind_it_is_told_before_a_backbone_is_loaded(
    open_it: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("npt_core.clip.load_backbone", None)
    with pytest.raises(DatasetError, match=r"no folder and no zip .*nowhere.*; give a folder with one folder"):
        open_it(tmp_path / "nowhere")


def test_a_data_set_of_the_callers_stays_open(backbone: Any, tmp_path: Path) -> None:
    path = tmp_path / "colours.zip"
    path.write_bytes(coloured_zip(4))
    with Dataset.open(path) as dataset:
        tune(dataset, QUICK, backbone=backbone)
        assert dataset.read(dataset.samples[0])


def test_without_a_backbone_it_is_the_demo_and_says_so(folder: Path) -> None:
    result = tune(folder, {"method": "zero_shot"})
    assert result.classifier.backbone.name == "demo"
    assert DEMO_NOTE in result.warnings


def test_a_named_backbone_is_loaded_and_not_remarked_on(folder: Path, tmp_path: Path) -> None:
    tiny, other = write_towers(tmp_path)
    for given in ({"backbone": tiny}, {"config": {**QUICK, "backbone": tiny}}):
        result = tune(folder, **{"config": QUICK, **given})
        assert result.classifier.backbone.name == "tiny"
        assert DEMO_NOTE not in result.warnings
    chosen = tune(folder, {**QUICK, "backbone": tiny}, backbone=other)  # the argument is nearer than the config
    assert chosen.classifier.backbone.name == "other"


def test_going_on_uses_the_towers_of_the_parent(folder: Path, backbone: Any) -> None:
    parent = tune(folder, QUICK, backbone=backbone).classifier
    child = tune(folder, {**QUICK, "parent": "first"}, parent=parent).classifier
    assert child.backbone is backbone


def test_a_published_backbone_is_found_by_its_name(saved: Path) -> None:
    classifier = Classifier.load(saved)
    assert classifier.backbone.name == "demo"
    assert classifier.labels == ("green", "red")


def test_an_exported_zip_is_loaded_like_the_folder(saved: Path, folder: Path) -> None:
    demo = load_backbone("demo")
    image = next(folder.rglob("*.png"))
    answers = [Classifier.load(path, demo).classify(image) for path in (saved, exported(saved))]
    assert answers[0] == answers[1]


def test_a_zip_that_was_touched_is_refused(saved: Path) -> None:
    path = exported(saved)
    data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as out:
        for name in source.namelist():
            content = source.read(name)
            out.writestr(name, content.replace(b'"zero_shot"', b'"zero_shit"') if name == MANIFEST_FILE else content)
    with pytest.raises(BundleError, match=r"manifest\.json is not what was exported"):
        Classifier.load(path)


def test_where_there_is_none_it_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"no saved classifier .*holds manifest\.json, or the zip"):
        Classifier.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtefactError, match=r"manifest\.json cannot be read"):
        Classifier.load(tmp_path / "empty")


@pytest.mark.parametrize("name", ["mine", "hf-hub:somebody/something", "", "local:mine=tiny@/etc/passwd"])
def test_a_file_alone_does_not_choose_weights_of_somebodys(
    saved: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = json.loads((saved / MANIFEST_FILE).read_text())
    manifest["backbone"]["name"] = name
    (saved / MANIFEST_FILE).write_text(json.dumps(manifest))
    monkeypatch.setattr("npt_core.clip.loading.load_model", None)  # nothing is read or fetched
    with pytest.raises(UnknownBackboneError, match="Say where its weights are: backbone='local:NAME=ARCH@"):
        Classifier.load(saved)


def test_its_reader_may_name_them(folder: Path, tmp_path: Path) -> None:
    tiny, other = write_towers(tmp_path)
    tune(folder, QUICK, backbone=tiny).classifier.save(tmp_path / "local")
    assert ARCH in tiny
    with pytest.raises(UnknownBackboneError, match="'tiny'"):
        Classifier.load(tmp_path / "local")
    assert Classifier.load(tmp_path / "local", tiny).backbone.name == "tiny"
    with pytest.raises(FingerprintMismatchError, match="'local' was made with other weights"):
        Classifier.load(tmp_path / "local", other)


def test_a_broken_folder_says_which_file(saved: Path) -> None:
    (saved / TENSOR_FILE).write_bytes(b"\0" * 20)
    with pytest.raises(ArtefactError, match="classifier.safetensors"):
        Classifier.load(saved)
