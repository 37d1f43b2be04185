"""What the contract tests share. Methods and regularisers come from the registries: a new file is tested by existing.

Each test runs over every method with its defaults, and over a few further settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from npt_core import Classifier, Dataset, TuneConfig, tune
from npt_core.clip import ClassPrompt
from npt_core.collapse import CollapseSetup, get_regularizer, list_regularizers
from npt_core.methods import ImageBatch, ImageInput, Method, get_method, list_methods
from npt_core.tuning.config import Schedule
from npt_core.tuning.features import MemoryFeatureCache, PixelSource, encode_dataset
from npt_core.tuning.traindata import TrainData
from npt_core.tuning.trainer import Trainer
from tests.support.tiny_clip import tiny_backbone

METHODS = [info.name for info in list_methods()]
REGULARIZERS = [info.name for info in list_regularizers()]
QUICK = {"epochs": 2, "views": 2, "batch_size": 5, "lr": 0.02}
CACHE = MemoryFeatureCache()

TEXT = {"width": 48}
"""The text tower is wider (48) than the image tower (32), and neither is as wide as the joint space (16)."""


class Case(NamedTuple):
    """A method and its settings."""

    id: str
    method: str
    config: Mapping[str, Any] = {}

    @property
    def cls(self) -> type[Method]:
        return get_method(self.method)

    def __repr__(self) -> str:
        return self.id


FURTHER = [
    Case("coop, own contexts", "coop", {"class_specific": True, "position": "middle"}),
    Case("kgcoop, name in front", "kgcoop", {"position": "front", "n_ctx": 3}),
    Case("vpt, shallow", "vpt", {"prompt_depth": 1}),
    Case("dpt, two candidates", "dpt", {"candidates": 2}),
    Case("tip_adapter-f", "tip_adapter", {"finetune": True}),
]
CASES = [*(Case(name, name) for name in METHODS), *FURTHER]


def sensible(case: Case, regularizer: str) -> bool:
    return regularizer == "none" or case.cls.moves_features


def takes_steps(case: Case) -> bool:
    return make(tiny_backbone("clip"), case, ("red", "blue")).takes_steps


def make(backbone: Any, case: Case, labels: tuple[str, ...]) -> Method:
    classes = [ClassPrompt(label) for label in labels]
    return case.cls(case.cls.Config(**case.config), backbone, classes, generator=torch.Generator().manual_seed(0))


PAIRS = [pair for pair in product(CASES, REGULARIZERS) if sensible(*pair)]
LEARNING_PAIRS = [pair for pair in PAIRS if pair[0].cls.learns]
STEPPING = [case for case in CASES if takes_steps(case)]
STEPPING_PAIRS = [pair for pair in LEARNING_PAIRS if pair[0] in STEPPING]


def ids(value: object) -> str:
    return value.id if isinstance(value, Case) else str(value)


def run(dataset: Dataset, backbone: Any, case: Case, regularizer: str, **settings: Any) -> Any:
    config = {"method": case.method, "method_config": dict(case.config), "regularizer": regularizer}
    return tune(dataset, TuneConfig.from_dict({**config, **QUICK, **settings}), backbone=backbone, cache=CACHE)


def images(backbone: Any, classifier: Classifier, count: int = 7) -> dict[str, Tensor]:
    """What `predict` wants of some random pictures."""
    pixels = torch.randn(count, 3, *backbone.image_size, generator=torch.Generator().manual_seed(1))
    tokens = backbone.image.encode_tokens(pixels).tokens.detach() if classifier.needs_tokens else None
    return {"images": pixels if classifier.needs_pixels else backbone.encode_images(pixels), "tokens": tokens}


def batch_of(backbone: Any, case: Case, count: int = 3, labels: Tensor | None = None) -> ImageBatch:
    """Random pictures, as much of each as the method asks for."""
    pixels = torch.randn(count, 3, *backbone.image_size, generator=torch.Generator().manual_seed(2))
    if case.cls.image_input is ImageInput.PIXELS:
        return ImageBatch(pixels=pixels, labels=labels)
    tokens = case.cls.image_input is ImageInput.TOKENS
    return ImageBatch(
        features=backbone.encode_images(pixels),
        tokens=backbone.image.encode_tokens(pixels).tokens if tokens else None,
        labels=labels,
    )


def train_data(backbone: Any, dataset: Dataset, case: Case) -> TrainData:
    indices = range(len(dataset.samples))
    if case.cls.image_input is ImageInput.PIXELS:
        labels = torch.tensor([dataset.labels.index(sample.label) for sample in dataset.samples])
        return TrainData(labels, 1, pixels=PixelSource(backbone, dataset, indices))
    tokens = case.cls.image_input is ImageInput.TOKENS
    found = encode_dataset(backbone, dataset, indices, cache=CACHE, with_tokens=tokens)
    return TrainData(found.labels, 1, found.features, found.tokens)


def trainer_of(method: Method, data: TrainData, regularizer: str) -> Trainer:
    cls = get_regularizer(regularizer)
    setup = CollapseSetup(method.zero_shot_text(), torch.bincount(data.labels, minlength=method.num_classes), 0)
    config = TuneConfig.from_dict({"method": method.name, **QUICK})
    schedule = Schedule.resolve(config, len(data.labels), method.num_classes)
    return Trainer(method, data, cls(cls.Config(), setup), schedule)


def shaken(method: Method, by: float = 0.1) -> Method:
    """The method with learned tensors off their first values, so that maps that start at zero count."""
    generator = torch.Generator().manual_seed(3)
    for parameter in method.parameters():
        parameter.data.add_(by * torch.randn(parameter.shape, generator=generator))
    return method
