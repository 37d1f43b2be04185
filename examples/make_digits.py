"""Make `digits.zip` and `digits_holdout.zip` from the UCI handwritten digits that scikit-learn carries (CC BY 4.0).

    .venv/bin/python examples/make_digits.py

The same files come out on every machine: the choice is seeded, the zip entries carry a fixed date. The two share no
picture, and the pictures to predict are from the half that nobody looked at while the demo backbone was made.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from npt_core.clip.demo.real_digits import load_half

HERE = Path(__file__).resolve().parent
SEED = 0
TUNE_PER_CLASS = 16
HOLDOUT_PER_CLASS = 40
README = (HERE / "README.md").read_text(encoding="utf-8").split("## Credit", 1)[1].strip()


def write_zip(path: Path, half: str, per_class: int) -> None:
    """Write `per_class` seeded pictures of each digit, one folder a class."""
    digits = load_half(half)
    pictures = digits.pictures()
    rng = np.random.Generator(np.random.PCG64(SEED))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for digit in range(10):
            mine = np.flatnonzero(np.asarray(digits.labels) == str(digit))
            for index in np.sort(rng.choice(mine, size=per_class, replace=False)):
                picture = io.BytesIO()
                pictures[index].save(picture, format="PNG", optimize=True)
                entry = zipfile.ZipInfo(f"{digit}/{digits.rows[index]:04d}.png", date_time=(1998, 7, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, picture.getvalue())
        archive.comment = README.encode()


if __name__ == "__main__":
    write_zip(HERE / "digits.zip", "look", TUNE_PER_CLASS)
    write_zip(HERE / "digits_holdout.zip", "report", HOLDOUT_PER_CLASS)
