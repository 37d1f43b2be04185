"""The science: frozen CLIP, prompt learners, collapse terms, data sets, trainer. A library; it knows no service.

    >>> from npt_core import Classifier, tune
    >>> tune("examples/digits.zip", {"method": "linear_probe"}).classifier.save("my-digits")    # a folder, or a zip
    >>> Classifier.load("my-digits").classify(["holdout/7/0007.png"])[0].label
    '7'

With everything said: a backbone that is loaded once, a data set that is looked at first, settings, what was reached.

    >>> import npt_core
    >>> backbone = npt_core.load_backbone("demo")
    >>> with npt_core.Dataset.open("examples/digits.zip") as dataset:
    ...     result = npt_core.tune(dataset, {"method": "zero_shot"}, backbone=backbone)
    >>> len(dataset.labels), result.report.metrics["tuned"]["accuracy"] > 0.8
    (10, True)

Names are looked up when first used, so that importing the package stays cheap: nothing heavy is imported here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Backbone": "npt_core.clip",
    "ClassPrompt": "npt_core.clip",
    "Classifier": "npt_core.classifier",
    "Control": "npt_core.tuning.control",
    "Dataset": "npt_core.data",
    "FolderFeatureCache": "npt_core.tuning.features",
    "MemoryFeatureCache": "npt_core.tuning.features",
    "NPTError": "npt_core.errors",
    "Progress": "npt_core.tuning.control",
    "Report": "npt_core.report",
    "Scores": "npt_core.classifier",
    "TuneConfig": "npt_core.tuning.config",
    "TuneResult": "npt_core.tuning.tune",
    "get_method": "npt_core.methods",
    "get_regularizer": "npt_core.collapse",
    "list_methods": "npt_core.methods",
    "list_regularizers": "npt_core.collapse",
    "load_backbone": "npt_core.clip",
    "parse_backbone": "npt_core.clip",
    "tune": "npt_core.tuning.tune",
    "zero_shot": "npt_core.classifier",
}

if TYPE_CHECKING:
    from npt_core.classifier import Classifier as Classifier
    from npt_core.classifier import Scores as Scores
    from npt_core.classifier import zero_shot as zero_shot
    from npt_core.clip import Backbone as Backbone
    from npt_core.clip import ClassPrompt as ClassPrompt
    from npt_core.clip import load_backbone as load_backbone
    from npt_core.clip import parse_backbone as parse_backbone
    from npt_core.collapse import get_regularizer as get_regularizer
    from npt_core.collapse import list_regularizers as list_regularizers
    from npt_core.data import Dataset as Dataset
    from npt_core.errors import NPTError as NPTError
    from npt_core.methods import get_method as get_method
    from npt_core.methods import list_methods as list_methods
    from npt_core.report import Report as Report
    from npt_core.tuning.config import TuneConfig as TuneConfig
    from npt_core.tuning.control import Control as Control
    from npt_core.tuning.control import Progress as Progress
    from npt_core.tuning.features import FolderFeatureCache as FolderFeatureCache
    from npt_core.tuning.features import MemoryFeatureCache as MemoryFeatureCache
    from npt_core.tuning.tune import TuneResult as TuneResult
    from npt_core.tuning.tune import tune as tune

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
