"""A saved classifier, file by file: written whole, read back only if every piece fits the others."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from npt_core.artefact import MANIFEST_FILE, TENSOR_FILE
from npt_core.continual.memory import memory_fault
from npt_core.errors import ArtefactError, ConfigError, Fault
from npt_core.methods import Method, MethodConfig, get_method
from npt_core.tensorfile import read_tensors

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt

TEXT_FEATURES = "text_features"
MEMORY = "memory"
LEARNED = "learned."


def resize_of(manifest: Mapping[str, Any]) -> str | None:
    """How its pictures are fitted into the square; None where the manifest does not say, as older ones do not."""
    from npt_core.clip.preprocess import RESIZE_MODES

    preprocess = manifest.get("preprocess")
    mode = preprocess.get("resize_mode") if isinstance(preprocess, Mapping) else None
    if mode is None:
        return None
    name = next((name for name, one in RESIZE_MODES.items() if one == mode), None)
    if name is None:
        raise ArtefactError(
            f"{MANIFEST_FILE} has the resize_mode {mode!r}; known are {', '.join(RESIZE_MODES.values())}."
        )
    return name


def write(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


@dataclass(frozen=True)
class Description:
    """What a manifest says a classifier is: its method, the method's settings, and K classes."""

    method: type[Method]
    config: MethodConfig
    classes: tuple[ClassPrompt, ...]


def described(manifest: Mapping[str, Any]) -> Description:
    """Return what a manifest describes.

    Raises:
        ArtefactError: Nothing that this version has.
    """
    from npt_core.clip.tokens import ClassPrompt

    try:
        classes = tuple(
            ClassPrompt(str(one["label"]), str(one["name"]), tuple(str(text) for text in one["phrasings"]))
            for one in manifest["classes"]
        )
    except (KeyError, TypeError) as error:
        raise ArtefactError(f"{MANIFEST_FILE} has classes without label, name or phrasings.") from error
    try:
        method = get_method(manifest["method"])
        return Description(method, method.Config.from_dict(manifest["method_config"]), classes)
    except ConfigError as error:
        raise ArtefactError(f"{MANIFEST_FILE} asks for what this version does not have: {error.message}") from error


def build(manifest: Mapping[str, Any], backbone: Backbone) -> Method:
    """Return the method a manifest describes, untuned.

    Raises:
        ArtefactError: It describes none that this version has.
    """
    found = described(manifest)
    generator = torch.Generator().manual_seed(0)
    return found.method(found.config, backbone, found.classes, generator=generator).to(backbone.device)


def read_learned(path: Path, method: Method) -> tuple[Tensor | None, Tensor | None]:
    """Read the tensor file into a method.

    Returns:
        (K, d) text features of its classes, and the memory of old images; None where the file has none.

    Raises:
        ArtefactError: It cannot be read, is over a limit, or does not fit the method.
    """
    tensors = read_tensors(path)
    text, memory = tensors.pop(TEXT_FEATURES, None), tensors.pop(MEMORY, None)
    learned = {name.removeprefix(LEARNED): value for name, value in tensors.items() if name.startswith(LEARNED)}
    if len(learned) < len(tensors):
        strange = ", ".join(sorted(name[:100] for name in tensors if not name.startswith(LEARNED))[:5])
        raise ArtefactError(f"{path.name} holds tensors that are no part of a classifier: {strange}.")
    method.make_room({name: value.shape for name, value in learned.items()})
    fit_state(method, learned)
    if text is not None:
        # A copy: a view of the mapped file would keep all of it in memory.
        text = checked_text(text, method.num_classes, method.backbone.d).to(method.backbone.device, copy=True)
    if memory is not None and (fault := memory_fault(memory, method.backbone.d)):
        raise ArtefactError(f"{path.name} holds a memory of old images that {fault}.")
    return text, memory


def read_report(path: Path) -> Any:
    """The report beside a classifier, or None.

    Raises:
        ArtefactError: It cannot be read.
    """
    if not path.exists():
        return None
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path.name} cannot be read: {type(error).__name__}.") from error


def checked_text(text: Tensor, num_classes: int, d: int) -> Tensor:
    """Return (K, d) text features if they can be those of K classes.

    Raises:
        ArtefactError: They cannot.
    """
    wanted = (num_classes, d)
    if text.shape != wanted or text.dtype != torch.float32:
        raise ArtefactError(
            f"{TENSOR_FILE} holds text features of shape {tuple(text.shape)}; the manifest's classes need {wanted}."
        )
    if not bool(torch.isfinite(text).all()):
        raise ArtefactError(f"{TENSOR_FILE} holds text features that are NaN or infinite.")
    return text


def fit_state(method: Method, learned: Mapping[str, Tensor]) -> None:
    """Load learned tensors after checking names, shapes and types."""
    expected = method.state_dict()
    faults = [Fault(name, "is missing") for name in expected if name not in learned]
    faults += [Fault(name, "is not a tensor of this method") for name in learned if name not in expected]
    for name in expected.keys() & learned.keys():
        have, want = learned[name], expected[name]
        if have.shape != want.shape or have.dtype != want.dtype:
            faults.append(
                Fault(name, f"is {have.dtype} {tuple(have.shape)}, expected {want.dtype} {tuple(want.shape)}")
            )
        elif have.is_floating_point() and not bool(torch.isfinite(have).all()):
            faults.append(Fault(name, "holds NaN or infinite values"))
        elif fault := method.learned_fault(name, have):
            faults.append(Fault(name, fault))
    if faults:
        listed = "; ".join(f"{fault.path} {fault.message}" for fault in faults)
        raise ArtefactError(f"{TENSOR_FILE} does not fit the manifest: {listed}.", faults)
    method.load_state_dict(dict(learned))
