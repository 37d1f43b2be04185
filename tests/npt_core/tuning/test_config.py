"""The tune config: defaults, faults, what is resolved."""

from __future__ import annotations

import json
from typing import Any

import pytest

from npt_core.errors import ConfigError, IncompatibleError
from npt_core.tuning.config import DEFAULT_VIEWS, MAX_DEFAULT_STEPS, Schedule, TuneConfig, resolve_views


def test_defaults_are_filled_in() -> None:
    config = TuneConfig()
    assert config.regularizer == "npt"
    assert config.method_config["n_ctx"] == 4
    assert config.regularizer_config["center"] is True
    assert TuneConfig(method="zero_shot").regularizer == "none"
    assert TuneConfig.from_dict(config.to_dict()) == config


def test_configs_that_mean_the_same_have_one_fingerprint() -> None:
    spelt_out = TuneConfig(regularizer="npt", method_config={"n_ctx": 4}, lr=None)
    assert spelt_out.fingerprint() == TuneConfig().fingerprint()
    assert TuneConfig(seed=1).fingerprint() != TuneConfig().fingerprint()


def test_faults_of_every_level_come_at_once() -> None:
    data = {
        "epochs": 0,
        "method_config": {"n_ctx": 0, "colour": 1},
        "regularizer_config": {"lambda_lmc": -1},
        "class_names": {"cat": "  "},
        "lern_rate": 1,
        "views": "many",
    }
    with pytest.raises(ConfigError) as caught:
        TuneConfig.from_dict(data)
    assert {fault.path for fault in caught.value.faults} == {
        "epochs",
        "method_config.n_ctx",
        "method_config.colour",
        "regularizer_config.lambda_lmc",
        "class_names.cat",
        "lern_rate",
        "views",
    }


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"method": "koop"}, "method"),
        ({"method": 3}, "method"),
        ({"regularizer": "ntp"}, "regularizer"),
        ({"regularizer": "none", "regularizer_config": {"lambda_lmc": 1}}, "regularizer_config.lambda_lmc"),
        ({"val_fraction": 0}, "val_fraction"),
        ({"val_fraction": 1}, "val_fraction"),
        ({"seed": -1}, "seed"),
        ({"lr": 0}, "lr"),
        ({"precision": "int8"}, "precision"),
        ({"method_config": {"position": "back"}}, "method_config.position"),
        ({"shots": 0}, "shots"),
        ({"tuned_share": "half"}, "tuned_share"),
        ({"tuned_share": "0.5"}, "tuned_share"),
        ({"tuned_share": None}, "tuned_share"),
        ({"tuned_share": True}, "tuned_share"),
        ({"tuned_share": 1.5}, "tuned_share"),
        ({"tuned_share": float("nan")}, "tuned_share"),
        ({"tuned_share": ["auto"]}, "tuned_share"),
        ({"tuned_share": "auto", "method": "zero_shot"}, "tuned_share"),
        ({"tuned_share": "auto", "method": "koop"}, "method"),
    ],
)
def test_one_fault_each(data: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TuneConfig.from_dict(data)
    assert [fault.path for fault in caught.value.faults] == [path]


@pytest.mark.parametrize(("share", "kept"), [("auto", "auto"), (0, 0.0), (1, 1.0), (0.3, 0.3)])
def test_a_share_is_a_number_or_left_to_be_chosen(share: Any, kept: Any) -> None:
    config = TuneConfig.from_dict({"tuned_share": share})
    assert config.tuned_share == kept
    assert type(config.tuned_share) is type(kept)
    assert TuneConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert (config.fingerprint() == TuneConfig().fingerprint()) is (kept == 1.0)
    assert TuneConfig.from_dict({"method": "auto", "tuned_share": share}).tuned_share == kept


def test_what_a_share_may_be_is_said() -> None:
    with pytest.raises(ConfigError, match="'half' is not accepted; it must be a number or 'auto'"):
        TuneConfig.from_dict({"tuned_share": "half"})
    with pytest.raises(ConfigError, match="'zero_shot' learns nothing, so there is no share to choose"):
        TuneConfig.from_dict({"tuned_share": "auto", "method": "zero_shot"})
    schema = TuneConfig.json_schema()["properties"]["tuned_share"]
    assert schema["anyOf"] == [{"type": "number", "minimum": 0, "maximum": 1}, {"enum": ["auto"]}]
    assert schema["default"] == 1.0


def test_a_pair_that_makes_no_sense() -> None:
    with pytest.raises(IncompatibleError, match="neither text nor image"):
        TuneConfig(method="zero_shot", regularizer="npt")


@pytest.mark.parametrize(("shots", "epochs"), [(1, 50), (2, 100), (4, 100), (5, 200), (16, 200)])
def test_epochs_by_shots_as_in_coop(shots: int, epochs: int) -> None:
    assert Schedule.resolve(TuneConfig(), 10 * shots, 10).epochs == epochs


def test_default_epochs_stay_affordable_and_explicit_ones_are_kept() -> None:
    many = Schedule.resolve(TuneConfig(), 60_000, 10)
    assert many.epochs == 5
    some = Schedule.resolve(TuneConfig(), 3_200, 10)
    assert some.epochs == MAX_DEFAULT_STEPS // 100
    assert Schedule.resolve(TuneConfig(epochs=77), 60_000, 10).epochs == 77


def test_a_single_epoch_has_no_warm_up() -> None:
    only = Schedule.resolve(TuneConfig(epochs=1), 10, 2)
    assert only.warmup_epochs == 0
    assert only.lr_at(0) == only.lr


def test_steps_count_the_last_small_batch() -> None:
    assert Schedule.resolve(TuneConfig(epochs=3, batch_size=4), 10, 2).steps(10) == 9


def test_json_schema_lists_methods_and_regularisers() -> None:
    properties = TuneConfig.json_schema()["properties"]
    assert "coop" in properties["method"]["enum"]
    assert {"none", "npt"} <= set(properties["regularizer"]["anyOf"][0]["enum"])


def test_views_are_many_for_few_images_and_one_for_many() -> None:
    assert resolve_views(TuneConfig(), 160) == DEFAULT_VIEWS
    assert resolve_views(TuneConfig(), 60_000) == 1
    assert resolve_views(TuneConfig(views=7), 60_000) == 7
