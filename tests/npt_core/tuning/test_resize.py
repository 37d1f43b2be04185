"""crop, pad or squash: chosen in the config, kept in the artefact, the same in tuning and prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from npt_core.classifier import MANIFEST_FILE, Classifier
from npt_core.data import Dataset
from npt_core.errors import ArtefactError, ConfigError
from npt_core.tuning.config import TuneConfig
from npt_core.tuning.features import MemoryFeatureCache, feature_key, load_picture
from npt_core.tuning.tune import TuneResult, tune
from tests.support.pictures import COLOURS, picture

QUICK = {"method": "zero_shot", "views": 1}
LEARNS = {"method": "coop", "epochs": 1, "views": 1, "batch_size": 8}


@pytest.fixture
def wide(tmp_path: Path) -> Dataset:
    """Pictures three times as wide as they are high, the left third of another colour."""
    for number, label in enumerate(("red", "green", "blue")):
        folder = tmp_path / "wide" / label
        folder.mkdir(parents=True)
        for i in range(4):
            image = picture(COLOURS[label], 100 * number + i, 96).crop((0, 0, 96, 32))
            image.paste(COLOURS["yellow"], (0, 0, 32, 32))
            image.save(folder / f"{i}.png")
    return Dataset.from_folder(tmp_path / "wide")


def tuned(dataset: Dataset, backbone: Any, cache: MemoryFeatureCache | None = None, **config: Any) -> TuneResult:
    return tune(dataset, QUICK | config, backbone=backbone, cache=cache)


def features(backbone: Any, dataset: Dataset) -> torch.Tensor:
    return backbone.encode_images(torch.stack([load_picture(backbone, dataset.read(s)) for s in dataset.samples]))


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_a_saved_classifier_prepares_pictures_as_it_was_tuned(
    tmp_path: Path, wide: Dataset, backbone: Any, resize: str
) -> None:
    cache = MemoryFeatureCache()
    classifier = tuned(wide, backbone, cache, resize=resize).classifier
    assert classifier.manifest["config"]["resize"] == resize
    classifier.save(tmp_path / "saved")
    loaded = Classifier.load(tmp_path / "saved", backbone)
    assert loaded.backbone.resize == (None if resize == "crop" else resize)
    assert loaded.manifest["preprocess"]["resize_mode"] == {"crop": "shortest", "pad": "longest"}.get(resize, resize)
    seen = features(loaded.backbone, wide)
    keys = [feature_key(loaded.backbone, sample.sha256, 0) for sample in wide.samples]
    learned_on = torch.stack([torch.from_numpy(cache.get_many([key])[key]) for key in keys])
    torch.testing.assert_close(seen, learned_on, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loaded.predict(seen).probabilities, classifier.predict(seen).probabilities)


def test_the_ways_differ_and_none_takes_the_features_of_another(wide: Dataset, backbone: Any) -> None:
    cache = MemoryFeatureCache()
    counts = [tuned(wide, backbone, cache, resize=way).counters["images_encoded"] for way in ("crop", "pad", "squash")]
    assert counts == [12, 12, 12]
    assert tuned(wide, backbone, cache).counters["images_encoded"] == 0  # its own way is crop
    assert tuned(wide, backbone, cache, resize="pad").counters["images_encoded"] == 0
    ways = [features(backbone.with_resize(way), wide) for way in ("crop", "pad", "squash")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(ways[one], ways[other], atol=1e-3)


def test_the_key_of_the_backbones_own_way_is_what_it_always_was(backbone: Any) -> None:
    keys = {feature_key(backbone.with_resize(way), "a" * 64, 0) for way in (None, "crop", "pad", "squash")}
    assert len(keys) == 3
    assert feature_key(backbone.with_resize("crop"), "a" * 64, 0) == feature_key(backbone, "a" * 64, 0)


def test_a_child_prepares_pictures_as_its_parent_unless_told_otherwise(wide: Dataset, backbone: Any) -> None:
    parent = tune(wide, LEARNS | {"resize": "pad"}, backbone=backbone).classifier
    child = tune(wide, LEARNS | {"parent": "p"}, backbone=backbone, parent=parent).classifier
    assert child.backbone.resize == "pad"
    other = tune(wide, LEARNS | {"parent": "p", "resize": "crop"}, backbone=backbone, parent=parent).classifier
    assert other.backbone.resize is None


def test_another_way_is_refused_in_config_and_artefact(tmp_path: Path, wide: Dataset, backbone: Any) -> None:
    with pytest.raises(ConfigError, match="resize") as caught:
        TuneConfig.from_dict({"resize": "stretch"})
    assert caught.value.faults[0].path == "resize"
    assert TuneConfig.from_dict({}).resize is None
    tuned(wide, backbone).classifier.save(tmp_path / "saved")
    path = tmp_path / "saved" / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"preprocess": {**manifest["preprocess"], "resize_mode": "stretch"}}))
    with pytest.raises(ArtefactError, match="stretch"):
        Classifier.load(tmp_path / "saved", backbone)
    path.write_text(json.dumps({key: value for key, value in manifest.items() if key != "preprocess"}))
    assert Classifier.load(tmp_path / "saved", backbone).backbone.resize is None
