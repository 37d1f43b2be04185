"""The pictures a report keeps, and whether what it says of itself gives the same classifier again."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from npt_core import Dataset, TuneConfig, tune
from npt_core.errors import Cancelled
from npt_core.tuning import examples
from tests.support.pictures import COLOURS, picture, write_folder

QUICK: dict[str, Any] = {"epochs": 2, "views": 1, "batch_size": 8, "lr": 0.02}


def decoded(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


@pytest.fixture
def confusing(tmp_path: Path) -> Dataset:
    """Test pictures of which half carry the wrong label, so that every classifier has mistakes."""
    root = write_folder(tmp_path / "set", {"red": 6, "blue": 6}, split="train", side=32)
    for label, other in (("red", "blue"), ("blue", "red")):
        folder = root / "test" / label
        folder.mkdir(parents=True)
        for i in range(8):
            colour = COLOURS[other if i % 2 else label]
            picture(colour, 700 + 31 * i + len(label), 96).save(folder / f"{i}.png")
    return Dataset.from_folder(root)


def test_mistakes_are_kept_as_small_pictures_with_what_was_said_of_them(confusing: Dataset, backbone: Any) -> None:
    result = tune(confusing, TuneConfig(**QUICK, method="linear_probe"), backbone=backbone)
    kept, metrics = result.report.examples, result.report.metrics
    assert kept is not None
    wrong = kept["wrong"]
    assert wrong
    pairs = [(one["label"], one["predicted"]) for one in metrics["tuned"]["most_confused"]]
    assert list(dict.fromkeys((one["label"], one["predicted"]) for one in wrong)) == pairs
    for one in wrong:
        assert one["label"] != one["predicted"]
        assert 0 < one["confidence"] <= 1
        assert one["path"] in result.report.evaluation["samples"]
        image = decoded(one["image"])
        assert max(image.size) == examples.THUMBNAIL_SIDE
        red, _, blue = image.convert("RGB").resize((1, 1)).getpixel((0, 0))  # what is drawn, not what the label says
        assert (red > blue) == (int(Path(one["path"]).stem) % 2 == (one["label"] == "blue"))
    for label, predicted in pairs:
        sure = [one["confidence"] for one in wrong if (one["label"], one["predicted"]) == (label, predicted)]
        assert len(sure) <= examples.PER_PAIR
        assert sure == sorted(sure, reverse=True)
    both = metrics["paired"]
    assert len(kept["fixed"]) == min(both["only_tuned_right"], examples.MAX_CHANGED)
    assert len(kept["broken"]) == min(both["only_zero_shot_right"], examples.MAX_CHANGED)
    assert all(one["zero_shot"] != one["predicted"] == one["label"] for one in kept["fixed"])
    assert all(one["zero_shot"] == one["label"] != one["predicted"] for one in kept["broken"])
    assert json.loads(json.dumps(kept)) == kept


def test_their_confidence_is_the_one_the_stored_model_answers_with(backbone: Any, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", {"red": 4, "blue": 4}, split="train")
    for label, other in (("red", "blue"), ("blue", "red")):
        (root / "test" / label).mkdir(parents=True)
        for i in range(14):
            picture(COLOURS[label if i % 3 else other], 40 * i + len(label)).save(root / "test" / label / f"{i}.png")
    dataset = Dataset.from_folder(root)
    result = tune(dataset, TuneConfig(**QUICK, method="linear_probe"), backbone=backbone)
    assert result.classifier.calibration.fitted
    assert result.classifier.calibration.temperature != 1
    assert result.report.examples is not None
    samples = {one.path: one for one in dataset.samples}
    for one in result.report.examples["wrong"]:
        pixels = backbone.load_pixels(dataset.open_image(samples[one["path"]], target=32))[None]
        scores = result.classifier.predict(backbone.encode_images(pixels))
        assert scores.labels[int(scores.probabilities.argmax())] == one["predicted"]
        assert float(scores.probabilities.max()) == pytest.approx(one["confidence"], abs=1e-4)


def test_a_thumbnail_is_upright_and_says_nothing_of_camera_or_place(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010F] = "secret camera"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.0)
    wide = Image.new("RGB", (800, 400), "white")
    wide.paste((255, 0, 0), (0, 0, 200, 400))
    for label in ("one", "two"):
        (tmp_path / label).mkdir()
        for n in range(2):
            wide.save(tmp_path / label / f"{n}.jpg", exif=exif, quality=90 + n, comment=b"secret comment")
    dataset = Dataset.from_folder(tmp_path)
    uri = examples.thumbnail(dataset.open_image(dataset.samples[0], target=64))
    image = decoded(uri)
    assert image.size == (32, 64)
    assert not image.getexif()
    assert b"secret" not in base64.b64decode(uri.partition(",")[2])
    assert image.convert("RGB").getpixel((16, 4))[1] < 60  # the red end is on top now
    assert image.convert("RGB").getpixel((16, 60))[1] > 200


def test_thumbnails_have_a_limit_together_and_a_picture_that_went_away_is_named_without_one(
    confusing: Dataset, backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "MAX_THUMBNAIL_BYTES", 3000)
    whole = tune(confusing, TuneConfig(**QUICK, method="linear_probe"), backbone=backbone).report.examples
    assert whole is not None
    uris = {one["path"]: one["image"] for part in whole.values() for one in part}
    assert 0 < sum(len(uri) for uri in uris.values() if uri) <= 3000
    assert None in uris.values()

    def gone(*_: Any, **__: Any) -> Image.Image:
        raise FileNotFoundError("the archive is gone")

    monkeypatch.setattr(examples, "thumbnail", gone)
    bare = tune(confusing, TuneConfig(**QUICK, method="linear_probe"), backbone=backbone).report.examples
    assert bare is not None
    assert {one["path"] for part in bare.values() for one in part} == set(uris)
    assert {one["image"] for part in bare.values() for one in part} == {None}


def test_making_them_can_be_stopped(confusing: Dataset, backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Stop:
        def check(self) -> None:
            if asked:
                raise Cancelled("stop")

    real = examples._thumbnails

    def then(*args: Any) -> Any:
        asked.append("now")
        return real(*args)

    monkeypatch.setattr(examples, "_thumbnails", then)
    with pytest.raises(Cancelled):
        tune(confusing, TuneConfig(**QUICK, method="linear_probe"), backbone=backbone, control=Stop())


def test_without_a_measurement_there_is_nothing_to_show(backbone: Any, tmp_path: Path) -> None:
    dataset = Dataset.from_folder(write_folder(tmp_path, {"red": 1, "blue": 4}))
    assert tune(dataset, TuneConfig(**QUICK), backbone=backbone).report.examples is None


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "coop", "seed": 3, "sampling_seed": 5, "shots": 6},
        {"method": "auto", "method_config": {"candidates": ["linear_probe", "coop"]}},
        {"method": "kgcoop", "tuned_share": "auto"},
        {"method": "zero_shot"},
        {"method": "tip_adapter", "class_names": {"red": "a red thing"}, "resize": "pad"},
    ],
)
def test_what_it_says_of_itself_gives_the_same_classifier(
    dataset: Dataset, backbone: Any, settings: dict[str, Any]
) -> None:
    quick = {"views": 1} if settings["method"] in ("zero_shot", "tip_adapter") else QUICK
    first = tune(dataset, TuneConfig(**quick, **settings), backbone=backbone)
    told = json.loads(json.dumps(first.report.reproduce))
    assert told["dataset_id"] == dataset.id
    assert told["config"]["method"] != "auto"
    assert told["config"]["tuned_share"] != "auto"
    assert told["seeds"] == {"seed": settings.get("seed", 0), "sampling_seed": settings.get("sampling_seed", 0)}
    assert told["versions"]["torch"] == first.classifier.manifest["versions"]["torch"]
    again = tune(dataset, told["config"], backbone=backbone)
    assert again.report.reproduce == told
    assert again.report.metrics == first.report.metrics
    assert again.report.examples == first.report.examples
    way = backbone.with_resize(settings.get("resize"))
    pixels = torch.stack([way.load_pixels(dataset.open_image(one, target=32)) for one in dataset.samples])
    features = way.encode_images(pixels)
    before, after = (one.classifier.predict(features).probabilities for one in (first, again))
    assert torch.equal(before, after)


@pytest.mark.parametrize("keep_old", ["auto", "null-space"])
def test_a_classifier_that_went_on_from_another_is_made_again_too(
    dataset: Dataset, backbone: Any, tmp_path: Path, keep_old: str
) -> None:
    parent = tune(dataset, TuneConfig(**QUICK), backbone=backbone).classifier
    new = Dataset.from_folder(write_folder(tmp_path / "new", {"yellow": 8, "red": 5}, first_seed=9000))
    settings = {**QUICK, "parent": "model_p", "keep_old": keep_old, "max_old_loss": 0.1}
    first = tune(new, settings, backbone=backbone, parent=parent, old=[dataset])
    told = json.loads(json.dumps(first.report.reproduce))
    assert told["old_dataset_ids"] == [dataset.id]
    assert told["config"]["keep_old"] == {"auto": "replay"}.get(keep_old, keep_old)
    again = tune(new, told["config"], backbone=backbone, parent=parent, old=[dataset])
    features = backbone.encode_images(
        torch.stack([backbone.load_pixels(new.open_image(one, target=32)) for one in new.samples])
    )
    before, after = (one.classifier.predict(features).probabilities for one in (first, again))
    assert torch.equal(before, after)
    assert again.report.metrics == first.report.metrics
    assert again.report.parent is not None
    assert first.report.parent is not None
    assert again.report.parent["old_accuracy"] == first.report.parent["old_accuracy"]
