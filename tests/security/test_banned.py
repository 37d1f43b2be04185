"""What no file of the product does: run what a file holds, extract an archive, make a path of what somebody wrote."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import ROOT

PACKAGES = ("app", "worker", "npt_core")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

METHODS = frozenset({"extractall", "extract", "unpack_archive", "mktemp", "load_module", "exec_module"})
"""Of any object: which it is of cannot be told from the source."""

CALLS = frozenset({"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pty.spawn", "yaml.load"})
MODULES = frozenset({"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "tarfile", "xml", "imp", "code"})

READS_CHECKPOINTS = {"npt_core/clip/checkpoints.py", "npt_core/clip/demo/pretrain.py"}
"""May call torch.load, with weights alone: on files that the operator names."""

ALLOWED = {
    ("npt_core/clip/checkpoints.py", "pickle"),  # the name of its error
}


def name_of(node: ast.expr) -> str:
    """`torch.jit.load` of such an expression; `.load` where it is one of what an expression gives."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = name_of(node.value)
        return f"{inner}.{node.attr}"
    return ""


def findings(source: str) -> Iterator[str]:
    """What of the above a source does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES and not node.level:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            name = name_of(node.func)
            given = {one.arg: one.value for one in node.keywords}
            if name in CALLS or (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
                yield name
            if name.startswith("torch.") and name.endswith(".load") and "safetensors" not in name:
                weights = given.get("weights_only")
                yield (
                    name
                    if name == "torch.jit.load" or (isinstance(weights, ast.Constant) and weights.value)
                    else f"{name}, of objects"
                )
            for switch, why in (
                ("shell", "through a shell"),
                ("allow_pickle", "with pickle"),
                ("trust_remote_code", "code"),
            ):
                value = given.get(switch)
                if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
                    yield f"{name} {why}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_file_does_what_none_may(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = set(findings(path.read_text(encoding="utf-8")))
    if name in READS_CHECKPOINTS:
        found -= {"torch.load", "torch.jit.load"}
    assert {one for one in found if (name, one) not in ALLOWED} == set()


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import xml.etree.ElementTree",
        "def f(z):\n    z.extractall('x')",
        "with zipfile.ZipFile('a') as z:\n    z.extract('b')",
        "eval('1')",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "torch.jit.load('x')",
        "np.load('x', allow_pickle=True)",
        "AutoModel.from_pretrained('x', trust_remote_code=True)",
    ],
)
def test_the_search_finds_each_of_them(source: str) -> None:
    assert list(findings(source))


@pytest.mark.parametrize(
    "source", ["safetensors.torch.load(x)", "json.loads(x)", "re.compile('a')", "np.load(x, allow_pickle=False)"]
)
def test_the_search_finds_nothing_else(source: str) -> None:
    assert list(findings(source)) == []


def test_the_linter_knows_them_too() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert {"S", "TID251"} <= set(settings["select"])
    banned = settings["flake8-tidy-imports"]["banned-api"]
    assert {"torch.load", "torch.jit.load", "pickle", "tarfile", "xml"} <= set(banned)
    assert not any(
        "TID251" in rules for files, rules in settings["per-file-ignores"].items() if files.split("/")[0] in PACKAGES
    )
