"""The settings of a tuning that goes on from a model."""

from __future__ import annotations

from typing import Any

import pytest

from npt_core.continual.settings import check_fit, continued, refuse_renaming
from npt_core.errors import ConfigError, IncompatibleError
from npt_core.tuning.config import TuneConfig


def manifest(method: str = "kgcoop", **settings: Any) -> dict[str, Any]:
    config = TuneConfig.from_dict({"method": method, **settings})
    return {
        "method": config.method,
        "method_config": dict(config.method_config),
        "config": config.to_dict(),
        "tuned_share": 0.7,
    }


def test_what_is_left_out_is_the_parents() -> None:
    parent = manifest(method_config={"n_ctx": 2}, regularizer="cpt", regularizer_config={"lambda_cc": 3.0}, epochs=7)
    found = TuneConfig.from_dict(continued({"parent": "p", "seed": 3}, parent))
    assert (found.method, found.method_config["n_ctx"]) == ("kgcoop", 2)
    assert (found.regularizer, found.regularizer_config["lambda_cc"]) == ("cpt", 3.0)
    assert (found.tuned_share, found.seed, found.epochs) == (0.7, 3, None)


def test_what_is_given_counts() -> None:
    asked = {"parent": "p", "method_config": {"weight": 2.0}, "regularizer": "none", "tuned_share": 1.0}
    found = TuneConfig.from_dict(continued(asked, manifest(regularizer="cpt", regularizer_config={"lambda_cc": 3.0})))
    assert found.method_config["weight"] == 2.0
    assert (found.regularizer, dict(found.regularizer_config), found.tuned_share) == ("none", {}, 1.0)


@pytest.mark.parametrize(
    ("asked", "path", "both"),
    [
        ({"method": "coop"}, "method", ("coop", "kgcoop")),
        ({"method": 3}, "method", ("3", "kgcoop")),
        ({"method_config": {"n_ctx": 8}}, "method_config.n_ctx", ("8", "4")),
        ({"method_config": {"class_specific": True}}, "method_config.class_specific", ("True", "False")),
    ],
)
def test_what_does_not_fit_is_refused_with_both(asked: dict[str, Any], path: str, both: tuple[str, str]) -> None:
    with pytest.raises(IncompatibleError) as caught:
        continued({"parent": "p", **asked}, manifest())
    assert [fault.path for fault in caught.value.faults] == [path]
    assert all(one in caught.value.message for one in both)
    settings = {"method": "kgcoop", "method_config": {}} | asked
    with pytest.raises(IncompatibleError):
        check_fit(settings["method"], settings["method_config"], manifest())


def test_other_words_for_an_old_class_are_refused() -> None:
    refuse_renaming({"0": "zero ", "1": "one"}, {"0": "zero"})
    with pytest.raises(ConfigError, match="nought.*zero") as caught:
        refuse_renaming({"0": "nought"}, {"0": "zero"})
    assert caught.value.faults[0].path == "class_names.0"


@pytest.mark.parametrize("setting", [{"keep_old": "replay"}, {"max_old_loss": 0.1}, {"keep_strength": 0.5}])
def test_settings_for_old_classes_need_a_parent(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no `parent`") as caught:
        TuneConfig.from_dict(setting)
    assert [fault.path for fault in caught.value.faults] == list(setting)
    assert TuneConfig.from_dict(setting | {"parent": "p"}).parent == "p"


@pytest.mark.parametrize("method", ["zero_shot", "linear_probe", "auto"])
def test_methods_that_cannot_go_on_say_why(method: str) -> None:
    with pytest.raises(ConfigError, match="cannot go on") as caught:
        TuneConfig.from_dict({"parent": "p", "method": method})
    assert [fault.path for fault in caught.value.faults] == ["parent"]
