"""The settings of a tuning that goes on from a model: the parent's, where the request leaves them out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from npt_core.errors import ConfigError, Fault, IncompatibleError


def continued(settings: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a request with the parent's in the place of those it leaves out.

    Args:
        settings: As they were sent; not validated yet.
        manifest: The parent's.

    Returns:
        For `TuneConfig.from_dict`. Method, its settings, regulariser and share come from the parent; how long and on
        what to tune does not.

    Raises:
        IncompatibleError: Method or method settings are others than the parent's; every fault names both.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    config = manifest.get("config")
    theirs: Mapping[str, Any] = config if isinstance(config, Mapping) else {}
    merged = dict(settings) | {"method": given.get("method", manifest["method"])}
    faults = list(_misfits(merged["method"], given.get("method_config"), manifest))
    if faults:
        raise IncompatibleError(
            f"The request does not fit its parent: {'; '.join(f'{one.path} {one.message}' for one in faults)}.", faults
        )
    own = given.get("method_config", {})
    merged["method_config"] = {**manifest["method_config"], **own} if isinstance(own, Mapping) else own
    if "regularizer" not in given and theirs.get("regularizer") is not None:
        merged["regularizer"] = theirs["regularizer"]
        merged["regularizer_config"] = given.get("regularizer_config", theirs.get("regularizer_config", {}))
    if "tuned_share" not in given:
        merged["tuned_share"] = manifest.get("tuned_share", 1.0)
    return merged


def check_fit(method: str, method_config: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Refuse settings that are not the parent's.

    Raises:
        IncompatibleError: Every fault names both.
    """
    faults = list(_misfits(method, method_config, manifest))
    if faults:
        raise IncompatibleError(
            f"The settings do not fit the parent: {'; '.join(f'{one.path} {one.message}' for one in faults)}.", faults
        )


def refuse_renaming(given: Mapping[str, Any], kept: Mapping[str, str]) -> None:
    """Refuse other words for a class of the parent.

    Args:
        given: Label to name, as the request has it.
        kept: The parent's.

    Raises:
        ConfigError: A class has both, and they differ.
    """
    renamed = {label: str(name) for label, name in given.items() if label in kept and str(name).strip() != kept[label]}
    if renamed:
        label, name = next(iter(renamed.items()))
        raise ConfigError(
            f"class_names calls {label!r} {name[:100]!r}, the parent calls it {kept[label]!r}: what it learned belongs "
            "to that name. Leave the parent's classes out of class_names.",
            [Fault(f"class_names.{label}", f"the parent calls it {kept[label]!r}") for label in renamed],
        )


def _misfits(method: Any, own: Any, manifest: Mapping[str, Any]) -> Iterable[Fault]:
    from npt_core.methods import get_method

    theirs = manifest["method"]
    if method != theirs:
        yield Fault(
            "method", f"is {str(method)[:64]!r}, the parent's is {theirs!r}; leave it out, or take another parent"
        )
        return
    if not isinstance(own, Mapping):
        return  # nothing given, or nothing that can be: the config says so
    try:
        cls = get_method(theirs)
        old = cls.Config.from_dict(manifest["method_config"]).to_dict()
    except ConfigError:
        return  # a method of another version: loading the parent says so
    for name, value in own.items():
        fixed = name in old and name not in cls.free_settings
        if fixed and value != old[name]:
            message = f"is {value!r}, the parent's is {old[name]!r}; leave it out: what was learned belongs to it"
            yield Fault(f"method_config.{name}", message)
