"""Splits a lock file in two, so that torch can come from another index: torch.txt and rest.txt.

    python split_lock.py requirements.lock [TORCH_INDEX]

With an index named, torch.txt holds the versions of torch and torchvision alone, without hashes (other builds have
others), and the CUDA packages that only the locked build needs are left out. Without one, both files together are the
lock. Standard library only.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TORCH = re.compile(r"(torch|torchvision)==")
CUDA = re.compile(r"(triton|nvidia-|cuda-)")


def split(lock: str, other_index: bool) -> tuple[str, str]:
    """Split the text of a lock file into those of torch.txt and rest.txt."""
    torch, rest = [], []
    # An entry is a line that begins with a name, and the indented lines below it.
    for entry in re.findall(r"^[A-Za-z0-9].*(?:\n[ \t#].*)*", lock, re.MULTILINE):
        if TORCH.match(entry):
            torch.append(entry.split()[0] if other_index else entry)
        elif not CUDA.match(entry):
            rest.append(entry)
        elif not other_index:
            torch.append(entry)
    return "\n".join(torch) + "\n", "\n".join(rest) + "\n"


def main() -> None:
    """Write both beside the lock file."""
    lock, index = Path(sys.argv[1]), "".join(sys.argv[2:])
    for name, text in zip(("torch.txt", "rest.txt"), split(lock.read_text(), bool(index)), strict=True):
        lock.with_name(name).write_text(text)


if __name__ == "__main__":
    main()
