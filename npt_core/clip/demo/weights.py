"""Reading and writing the demo backbone's files: `config.json`, `weights.safetensors`, `model_card.md`.

The file holds half precision and only the rows of the token table that were trained. A reader gets an ordinary
open_clip state dict in full precision: the other rows are filled with the mean of the trained ones, so that a word
never seen is as neutral as it can be, and the trained ids come along so that a caller can warn about such words.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from npt_core.clip.demo.stem import build_demo_model
from npt_core.errors import BackboneUnavailableError

__all__ = ["DemoWeights", "build_demo_model", "load_demo_weights", "write_demo_weights"]

FOLDER = Path(__file__).resolve().parent
WEIGHTS, CONFIG, CARD = "weights.safetensors", "config.json", "model_card.md"
TABLE, TABLE_IDS = "token_embedding.weight", "token_embedding.ids"
MAX_BYTES = 20 * 2**20


@dataclass(frozen=True)
class DemoWeights:
    """The demo backbone as it is read.

    Attributes:
        config: open_clip's `embed_dim`, `vision_cfg`, `text_cfg`, and `preprocess` with `mean`, `std`, `interpolation`.
        state_dict: Full float32 state dict of the open_clip `CLIP` that `config` describes.
        trained_token_ids: Ids of open_clip's tokenizer whose rows were trained; the others hold a filler.
        card: The model card, Markdown; empty where there is none beside the weights.
    """

    config: dict[str, Any]
    state_dict: dict[str, Tensor]
    trained_token_ids: frozenset[int]
    card: str


def load_demo_weights(folder: Path | None = None) -> DemoWeights:
    """Read the demo backbone.

    Args:
        folder: Where its files lie; those that come with this package when None.

    Raises:
        BackboneUnavailableError: A file is missing or is not what it should be.
    """
    place = FOLDER if folder is None else folder
    config = _read_config(place / CONFIG)
    path = place / WEIGHTS
    if not path.is_file():
        raise BackboneUnavailableError(
            f"The demo backbone's weights are missing: {path}. Install the package again, or train them with "
            f"`python -m npt_core.clip.demo.pretrain --out {place}`."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise BackboneUnavailableError(f"The demo backbone's weights cannot be read: {path}: {error}.") from error
    card = place / CARD
    ids, state = _fill_table(stored, int(config["text_cfg"]["vocab_size"]), path)
    return DemoWeights(config, state, frozenset(ids), card.read_text("utf-8") if card.is_file() else "")


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneUnavailableError(f"The demo backbone's configuration cannot be read: {path}: {error}.") from error
    wanted = {"embed_dim", "vision_cfg", "text_cfg", "preprocess"}
    if not isinstance(config, dict) or not wanted <= config.keys():
        raise BackboneUnavailableError(f"The demo backbone's configuration {path} lacks one of {sorted(wanted)}.")
    return config


def _fill_table(stored: dict[str, Tensor], vocab_size: int, path: Path) -> tuple[list[int], dict[str, Tensor]]:
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    ids, rows = state.pop(TABLE_IDS, None), state.pop(TABLE, None)
    if ids is None or rows is None or len(ids) != len(rows) or int(ids.min()) < 0 or int(ids.max()) >= vocab_size:
        raise BackboneUnavailableError(f"The demo backbone's weights {path} hold no usable token table.")
    table = rows.mean(0).repeat(vocab_size, 1)
    table[ids.long()] = rows
    state[TABLE] = table
    return [int(i) for i in ids], state


def write_demo_weights(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], token_ids: Sequence[int]
) -> None:
    """Write `config.json` and `weights.safetensors` (float16), each whole or not at all.

    Args:
        folder: Where to.
        config: As `DemoWeights.config`.
        state: State dict of the trained model, its token table cut to `token_ids`, in their order.
        token_ids: Ids of open_clip's tokenizer for these rows.

    Raises:
        ValueError: Table and ids differ in length, a number does not fit float16, or the file is over `MAX_BYTES`.
    """
    if len(state[TABLE]) != len(token_ids):
        raise ValueError(f"The token table has {len(state[TABLE])} rows for {len(token_ids)} ids.")
    half = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in state.items()}
    broken = [name for name, tensor in half.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise ValueError(f"These tensors do not fit half precision: {', '.join(broken)}.")
    half[TABLE_IDS] = torch.tensor(list(token_ids), dtype=torch.int32)
    data = save(half)
    if len(data) > MAX_BYTES:
        raise ValueError(f"The weights take {len(data)} bytes; at most {MAX_BYTES} may lie in the repository.")
    _replace(folder / WEIGHTS, data)
    _replace(folder / CONFIG, (json.dumps(dict(config), indent=2) + "\n").encode())


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)
