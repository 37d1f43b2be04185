"""`Classifier.classify`: files, bytes and pictures to answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from npt_core import Classifier, tune
from npt_core.errors import ConfigError, ImageError
from npt_core.tuning.features import load_picture
from tests.support.pictures import COLOURS, picture, write_folder

LABELS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def classifier(backbone: Any, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    folder = write_folder(tmp_path_factory.mktemp("p"), dict.fromkeys(LABELS, 8))
    return tune(folder, {"method": "linear_probe"}, backbone=backbone).classifier


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = write_folder(tmp_path_factory.mktemp("new"), dict.fromkeys(LABELS, 1), first_seed=77_000)
    return [folder / label / "000.png" for label in LABELS]


def test_answers_are_those_of_predict_in_the_order_of_the_images(classifier: Classifier, files: list[Path]) -> None:
    answers = classifier.classify(files, top_k=3)
    backbone = classifier.backbone
    pixels = torch.stack([load_picture(backbone, path.read_bytes()) for path in files])
    scores = classifier.predict(backbone.encode_images(pixels))
    assert [one.name for one in answers] == [str(path) for path in files]
    for answer, row in zip(answers, scores.probabilities, strict=True):
        by_label = {one.label: one.probability for one in answer.top}
        assert [by_label[label] for label in scores.labels] == pytest.approx(row.tolist(), abs=1e-5)
        assert answer.probability == max(by_label.values())
    assert [one.label for one in answers] == list(LABELS)  # of a probe on towers that tell colours apart


def test_a_path_its_bytes_and_its_picture_are_one_image(classifier: Classifier, files: list[Path]) -> None:
    data = files[0].read_bytes()
    given = [str(files[0]), data, Image.open(files[0]), files[0]]
    answers = classifier.classify(given)
    assert [one.name for one in answers] == [str(files[0]), "image-2", "image-3", str(files[0])]
    assert len({one.top for one in answers}) == 1
    assert len(classifier.classify(data)) == 1


def test_a_picture_that_lies_on_its_side_is_put_upright(classifier: Classifier, tmp_path: Path) -> None:
    top, bottom = (picture(COLOURS[name], 1, 64).resize((64, 32)) for name in ("red", "blue"))
    both = Image.new("RGB", (64, 64))
    both.paste(top, (0, 0))
    both.paste(bottom, (0, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    both.rotate(90).save(tmp_path / "turned.png", exif=exif)
    both.save(tmp_path / "straight.png")
    turned, opened, straight = classifier.classify(
        [tmp_path / "turned.png", Image.open(tmp_path / "turned.png"), tmp_path / "straight.png"], top_k=1
    )
    assert turned.top == opened.top == straight.top


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "F", "I"])
def test_pictures_of_every_mode(classifier: Classifier, mode: str) -> None:
    image = Image.new("RGB", (40, 40), (200, 30, 30)).convert("L" if mode == "LA" else "RGB").convert(mode)
    assert classifier.classify(image)[0].top


def test_one_bad_image_has_an_error_and_the_others_their_answers(
    classifier: Classifier, files: list[Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.png"
    text.write_text("no picture")
    answers = classifier.classify([files[0], text, tmp_path / "nowhere.png", tmp_path, files[1]])
    assert [one.error is None for one in answers] == [True, False, False, False, True]
    assert [one.label for one in answers if one.error is None] == ["red", "green"]
    with pytest.raises(ImageError, match=r"nowhere\.png cannot be read: No such file"):
        _ = answers[2].label
    with pytest.raises(ImageError, match="is a folder; give image files"):
        _ = answers[3].best
    assert answers[1].top == ()


def test_other_labels_priors_and_a_threshold(backbone: Any, classifier: Classifier, files: list[Path]) -> None:
    two = classifier.classify(files[0], labels=["blue", "red"], top_k=9)[0]
    assert {one.label for one in two.top} == {"blue", "red"}
    certain = classifier.classify(files[0], priors={"red": 0, "green": 1, "blue": 1})[0]
    assert certain.label != "red"
    assert classifier.classify(files[0], reject_below=1.0)[0].rejected
    assert not classifier.classify(files[0])[0].rejected
    stored = {"temperature": 1.0, "count": 0, "source": "none", "reject_below": 1.0}
    careful = Classifier(classifier.method, {**classifier.manifest, "calibration": stored})
    assert careful.classify(files[0])[0].rejected  # what the classifier stores
    assert not careful.classify(files[0], reject_below=0)[0].rejected


def test_what_makes_no_sense_is_refused(classifier: Classifier, files: list[Path]) -> None:
    with pytest.raises(ConfigError, match="top_k is 0"):
        classifier.classify(files, top_k=0)
    assert classifier.classify([]) == []
