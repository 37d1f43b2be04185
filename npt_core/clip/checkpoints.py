"""Reading checkpoints the operator names: tensors only, never pickled objects."""

from __future__ import annotations

import pickle  # noqa: S403, TID251 - only for the name of its error
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from safetensors.torch import load_file
from torch import nn

from npt_core.errors import BackboneUnavailableError, Fault

State = dict[str, torch.Tensor]

# what OpenAI's archives carry beside the weights, and what older releases saved as buffers
_OPENAI_MARKS = frozenset({"input_resolution", "context_length", "vocab_size"})
_NOT_WEIGHTS = _OPENAI_MARKS | {"attn_mask", "text.attn_mask", "text.transformer.embeddings.position_ids"}
_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
_TEXT_PARTS = ("text_projection", "positional_embedding", "token_embedding", "transformer", "ln_final")


def read_state_dict(path: Path) -> tuple[State, bool]:
    """Read the tensors of a checkpoint; the one place where a file of the operator's is opened.

    The content decides, not the file's name: safetensors; a `torch.save` file through the unpickler that knows tensors
    only; a TorchScript archive (OpenAI's releases), of which only the state dict is taken.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU by name, wrappers and `module.` prefixes taken off; and whether it is an OpenAI archive.

    Raises:
        BackboneUnavailableError: No such file, no checkpoint, or one that holds more than tensors.
    """
    if not path.is_file():
        raise BackboneUnavailableError(f"There is no checkpoint file {path}; check the path after `@`.")
    try:
        with warnings.catch_warnings():  # the archives people have were written by old releases
            warnings.simplefilter("ignore")
            raw = _read(path)
    except (pickle.UnpicklingError, ModuleNotFoundError, AttributeError) as error:
        raise BackboneUnavailableError(
            f"Checkpoint {path.name} holds objects other than tensors, which are never loaded ({_first_line(error)}). "
            "Save `model.state_dict()` alone, best as safetensors."
        ) from error
    except Exception as error:  # the old pickle reader raises whatever the bytes make it do: IndexError, for one
        raise BackboneUnavailableError(
            f"Checkpoint {path.name} cannot be read as safetensors, PyTorch state dict or TorchScript archive "
            f"({_first_line(error)}). It may be cut short: compare its size and hash with the source."
        ) from error
    openai = raw.keys() >= _OPENAI_MARKS
    state = _unwrap(raw, path)
    return {name: tensor for name, tensor in state.items() if name not in _NOT_WEIGHTS}, openai


def _read(path: Path) -> Mapping[str, Any]:
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return cast("Mapping[str, Any]", load_file(path, device="cpu"))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("/constants.pkl") for name in archive.namelist())
        if scripted:
            scripted_model = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call] # noqa: TID251
            return cast("Mapping[str, Any]", scripted_model.state_dict())
    loaded = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 - a file the operator names
    if not isinstance(loaded, Mapping):
        raise ValueError(f"it holds a {type(loaded).__name__}, not a state dict")
    return loaded


def _unwrap(raw: Mapping[str, Any], path: Path) -> State:
    state: Mapping[str, Any] = raw
    for key in _WRAPPERS:
        if isinstance(state.get(key), Mapping):
            state = state[key]
    for prefix in _PREFIXES:
        if state and all(str(name).startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    others = [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others or not state:
        found = f"entries that are no tensors ({_listed(others)})" if others else "nothing"
        raise BackboneUnavailableError(
            f"Checkpoint {path.name} holds {found}; it needs a state dict: tensors by name, or that under `state_dict`."
        )
    return dict(state)


def load_into(model: nn.Module, state: State, *, arch: str, source: str) -> None:
    """Load a state dict into a model of the named architecture, every tensor or none.

    Args:
        model: A freshly built open_clip model.
        state: Tensors by name; the older layout without `text.` and third-party layouts open_clip knows are accepted.
        arch: The architecture's name, for messages.
        source: The file's name, for messages.

    Raises:
        BackboneUnavailableError: Missing, unexpected or wrongly shaped tensors; all are listed in `faults`.
    """
    state = cast("State", convert_state_dict(model, state))
    if hasattr(model, "positional_embedding"):
        if "text.positional_embedding" in state:
            state = {_without_text(name): tensor for name, tensor in state.items()}
    else:
        state = convert_to_custom_text_state_dict(state)
    own = model.state_dict()
    for name in ("logit_scale", "logit_bias"):  # one number, saved with or without an axis
        if name in state and name in own and state[name].numel() == 1:
            state[name] = state[name].reshape(own[name].shape)
    faults = [Fault(n, "missing") for n in sorted(own.keys() - state.keys())]
    faults += [Fault(n, "unexpected") for n in sorted(state.keys() - own.keys())]
    for name in sorted(own.keys() & state.keys()):
        found, wanted = tuple(state[name].shape), tuple(own[name].shape)
        if found != wanted:
            faults.append(Fault(name, f"shape {found}, but {arch} has {wanted}"))
    if faults:
        likely = [a for a in architectures_like(state) if a != arch]
        hint = f"The file looks like {' or '.join(likely[:4])}" if likely else "Name the architecture it was made with"
        raise BackboneUnavailableError(f"Checkpoint {source} is no {arch}: {_summary(faults)}. {hint}.", faults)
    model.load_state_dict(state)


def architectures_like(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Architectures of open_clip whose sizes are those of a state dict (image towers of its own kind only)."""
    seen = _sizes_of_state(state)
    if seen is None:
        return []
    return [name for name in open_clip.list_models() if _sizes_of_config(open_clip.get_model_config(name)) == seen]


def _sizes_of_state(state: Mapping[str, torch.Tensor]) -> tuple[Any, ...] | None:
    text = "text." if "text.positional_embedding" in state else ""
    try:
        context, d_text = state[f"{text}positional_embedding"].shape
        stem, grid = state["visual.conv1.weight"], state["visual.positional_embedding"].shape[0] - 1
    except (KeyError, ValueError):
        return None
    return (
        context,
        d_text,
        _depth(state, f"{text}transformer.resblocks."),
        stem.shape[0],
        stem.shape[-1],
        grid,
        _depth(state, "visual.transformer.resblocks."),
    )


def _sizes_of_config(config: Mapping[str, Any]) -> tuple[Any, ...] | None:
    text, vision = config["text_cfg"], config["vision_cfg"]
    patch, size = vision.get("patch_size"), vision.get("image_size", 224)
    if not isinstance(vision.get("layers"), int) or "timm_model_name" in vision or "hf_model_name" in text:
        return None
    if not isinstance(patch, int) or not isinstance(size, int):
        return None
    return (
        text.get("context_length", 77),
        text.get("width", 512),
        text.get("layers", 12),
        vision["width"],
        patch,
        (size // patch) ** 2,
        vision["layers"],
    )


def _depth(state: Mapping[str, torch.Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})


def _without_text(name: str) -> str:
    bare = name.removeprefix("text.")
    return bare if bare != name and bare.startswith(_TEXT_PARTS) else name


def _summary(faults: list[Fault]) -> str:
    parts = []
    for kind in ("missing", "unexpected"):
        if names := [f.path for f in faults if f.message == kind]:
            parts.append(f"{len(names)} {kind} ({_listed(names)})")
    if shapes := [f for f in faults if f.message not in ("missing", "unexpected")]:
        parts.append(f"{len(shapes)} of another size ({_listed(f'{f.path}: {f.message}' for f in shapes)})")
    return "; ".join(parts)


def _listed(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
