"""The notebook runs, and the session in the README is the one that the script records."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import ROOT

NOTEBOOK = ROOT / "examples" / "library.ipynb"


def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """In a process of its own, beside the data it names. NPT_WRITE_SNAPSHOTS=1 keeps what it put out."""
    for name in ("library.ipynb", "digits.zip", "digits_holdout.zip"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    code = "import json; from pathlib import Path; from tests.support.notebook import run; "
    code += "print(json.dumps(run(Path('library.ipynb'))))"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ran: dict[str, Any] = json.loads(done.stdout)
    if os.environ.get("NPT_WRITE_SNAPSHOTS"):
        NOTEBOOK.write_text(json.dumps(ran, indent=1, ensure_ascii=False) + "\n")
    stored = json.loads(NOTEBOOK.read_text())
    kinds = [[output["output_type"] for output in cell.get("outputs", ())] for cell in ran["cells"]]
    assert [[output["output_type"] for output in cell.get("outputs", ())] for cell in stored["cells"]] == kinds


def test_the_session_in_the_readme_is_the_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import session

    readme = (ROOT / "README.md").read_text()
    block = next(part for part in readme.split("```text\n")[1:] if part.startswith("$ npt"))
    typed = [line.removeprefix("$ ") for line in block.split("```")[0].splitlines() if line.startswith("$ ")]
    assert typed == list(session.COMMANDS)
