"""A process that writes one model as ONNX and ends: tracing holds the interpreter, and its memory goes with it.

Reads what to do as JSON from standard input; the last line of standard output says what came of it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from npt_core.errors import BackboneError, NPTError

PARENT_POLL_S = 1.0
NICENESS = 5


def main() -> int:
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    os.nice(NICENESS)  # whoever predicts comes first
    warnings.simplefilter("ignore")  # of libraries, about libraries
    wish = json.loads(sys.stdin.buffer.read())
    try:
        answer: dict[str, Any] = {"differences": _write(wish)}
    except NPTError as error:
        answer = {"code": error.code, "message": error.message}
    except Exception as error:
        answer = {"code": "", "message": "", "unforeseen": f"{type(error).__name__}: {error}"[:1000]}
    print(f"\n{json.dumps(answer)}", flush=True)  # noqa: T201 - this is its answer
    return 0


def _write(wish: dict[str, Any]) -> dict[str, float]:
    import torch

    from npt_core.classifier import Classifier
    from npt_core.clip import load_backbone, parse_backbone
    from npt_core.onnx_export import write_onnx

    torch.set_num_threads(1)
    spec = {spec.name: spec for spec in map(parse_backbone, wish["entries"])}[wish["backbone"]]
    try:
        backbone = load_backbone(spec, device="cpu", precision="fp32", cache_dir=Path(wish["weights"]))
    except BackboneError as error:
        if spec.kind == "local":  # its message names a path, which is the operator's business and the log's
            raise RuntimeError(error.message) from error
        raise
    return write_onnx(Classifier.load(Path(wish["folder"]), backbone), Path(wish["out"]), wish["facts"])


def _watch_parent(parent: int) -> None:
    """Work for nobody else than who asked."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
