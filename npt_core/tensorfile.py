"""Safetensors files, judged by their header before they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from npt_core.errors import ArtefactError

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 4096
MAX_TENSOR_BYTES = 2 << 30
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file under caps on header, count, types and size.

    Raises:
        ArtefactError: Any of them broken, or the file is no safetensors file.
    """
    import safetensors.torch

    check_tensors(path)
    try:
        return dict(safetensors.torch.load_file(path))
    except Exception as error:
        raise ArtefactError(f"{path.name} is no safetensors file: {type(error).__name__}.") from error


def read_tensor(path: Path, name: str) -> Tensor | None:
    """Read one tensor of a safetensors file, under the same caps, and nothing of the others; None: it has none such.

    Raises:
        ArtefactError: As for `read_tensors`.
    """
    import safetensors

    check_tensors(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            # A copy: what safetensors hands out may be a view of the mapped file, which would stay open.
            return file.get_tensor(name).clone() if name in file.keys() else None  # noqa: SIM118 - it is no dict
    except Exception as error:
        raise ArtefactError(f"{path.name} is no safetensors file: {type(error).__name__}.") from error


def check_tensors(path: Path) -> None:
    """Judge a safetensors file by its header, before a tensor of it is believed.

    Raises:
        ArtefactError: A cap on header, count, types or size is broken, or the file is no safetensors file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise ArtefactError(f"{path.name} has a header of {length} bytes; at most {MAX_HEADER_BYTES}.")
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{path.name} is no safetensors file: {type(error).__name__}.") from error
    if not isinstance(header, dict):
        raise ArtefactError(f"{path.name} is no safetensors file: its header is a {type(header).__name__}.")
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if len(entries) > MAX_TENSORS:
        raise ArtefactError(f"{path.name} holds {len(entries)} tensors; at most {MAX_TENSORS} are accepted.")
    total = 0
    for name, entry in entries.items():
        entry = entry if isinstance(entry, dict) else {}
        width, shape = DTYPE_BYTES.get(str(entry.get("dtype"))), entry.get("shape")
        sized = isinstance(shape, list) and len(shape) <= 8 and all(isinstance(n, int) and n >= 0 for n in shape)
        if width is None or shape is None or not sized:
            raise ArtefactError(f"{path.name}: tensor {name[:100]!r} has a type or shape that is not accepted.")
        count = 1
        for side in shape:
            count *= side
        total += count * width
    if total > MAX_TENSOR_BYTES or total > size:
        raise ArtefactError(
            f"{path.name} claims {total} bytes of tensors in a file of {size}; it is damaged or hostile."
        )
