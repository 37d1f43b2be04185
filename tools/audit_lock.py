"""Checks, without a network, that what is installed here is what the lock files name, and nothing else.

    python tools/audit_lock.py [--strict]

Every requirement of both locks must be one exact version with SHA-256 hashes, from an index (no address, no branch, no
option of the installer); every direct dependency of pyproject.toml must be locked within its own bounds; every locked
package must be one that pyproject.toml asks for, or that such a one asks for in turn, by what the installed packages
say of themselves: a lock cannot bring in what nobody uses. Every package of this environment must be the locked
version. Packages that no lock names are listed, and with `--strict` they are an error too: what nobody locked, nobody
audited.

What it cannot know without a network: whether a locked version has a known fault, or was withdrawn (`make audit` asks).
That the installed files are those of the hashes is what pip sees to when it installs; they are not read again here.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distributions, requires
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")
OWN = frozenset({"pip", "setuptools", "wheel", "npt-service"})
"""What a virtual environment brings, and this project itself."""

_ENTRY = re.compile(r"^[A-Za-z0-9].*(?:\n[ \t].*)*", re.MULTILINE)
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[\w,-]+\])?==([^\s;\\]+)")
_CONDITION = re.compile(r";\s*(.+?)\s*\\?$")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(?=\s|$)")


def faults_of_lock(text: str) -> Iterator[str]:
    """What in a lock file is not one exact version with its hashes."""
    for entry in _ENTRY.findall(text):
        first = entry.splitlines()[0]
        if not _PIN.match(first):
            yield f"{first[:100]!r} is no exact version"
        elif not _HASH.search(entry):
            yield f"{first.split()[0]} has no SHA-256"
        elif "--hash=" in _HASH.sub("", entry):
            yield f"{first.split()[0]} has a hash that is no SHA-256"
    for line in text.splitlines():
        words = line.partition("#")[0].strip()
        if "://" in words or (words.startswith("-") and not words.startswith("--hash=")):
            yield f"{words[:100]!r} leads away from the index, or changes how things are installed"
    for name, count in Counter(name for name, _ in _entries_for_here(text)).items():
        if count > 1:
            yield f"{name} is there {count} times for this system"


def _entries_for_here(text: str) -> Iterator[tuple[str, str]]:
    """Name and version of every entry that is meant for this Python and this system."""
    for entry in _ENTRY.findall(text):
        match = _PIN.match(entry)
        condition = _CONDITION.search(entry.splitlines()[0])
        if match and (condition is None or Marker(condition[1]).evaluate()):
            yield canonicalize_name(match[1]), match[3]


def pins_of(text: str) -> dict[str, str]:
    """Name -> version of every entry of a lock file that is meant for this Python and this system."""
    return dict(_entries_for_here(text))


def wanted_by(project: dict[str, object]) -> Iterator[Requirement]:
    """Direct dependencies, extras included, that this Python and this system need."""
    extras = project.get("optional-dependencies", {})
    groups = [project.get("dependencies", []), *(extras.values() if isinstance(extras, dict) else ())]
    for line in (line for group in groups if isinstance(group, list) for line in group):
        wanted = Requirement(str(line))
        if wanted.marker is None or wanted.marker.evaluate():
            yield wanted


def needed(wanted: Iterable[Requirement], needs: Callable[[str], Iterable[str]]) -> set[str]:
    """Names of all packages that some requirements come to, directly or through others.

    Args:
        wanted: The requirements.
        needs: Of a package, by its name: what it asks for itself, as in its metadata.
    """
    waiting, seen = list(wanted), set[tuple[str, frozenset[str]]]()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if (name, frozenset(one.extras)) in seen:
            continue
        seen.add((name, frozenset(one.extras)))
        for further in map(Requirement, needs(name)):
            marker = further.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
                waiting.append(further)
    return {name for name, _ in seen}


def needs_here(name: str) -> list[str]:
    """What an installed package asks for; nothing where it is not installed."""
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []


def faults_of_project(project: dict[str, object], pins: dict[str, str]) -> Iterator[str]:
    """Direct dependencies that the lock lacks, or has outside their bounds."""
    for wanted in wanted_by(project):
        found = pins.get(canonicalize_name(wanted.name))
        if found is None:
            yield f"{wanted.name} is in pyproject.toml and in no lock: make lock"
        elif not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name} is locked as {found}, and pyproject.toml asks for {wanted.specifier}: make lock"


def differences(installed: dict[str, str], pins: dict[str, str]) -> tuple[list[str], list[str]]:
    """Packages of another version than the locked one, and packages that no lock names."""
    other = [
        f"{name} is {found}, locked is {pins[name]}"
        for name, found in installed.items()
        if pins.get(name, found) != found
    ]
    strange = [f"{name} {found} is in no lock" for name, found in installed.items() if name not in pins]
    return sorted(other), sorted(strange)


def installed_here() -> dict[str, str]:
    """Name -> version of what this environment holds."""
    found = {canonicalize_name(one.metadata["Name"]): one.version for one in distributions() if one.metadata["Name"]}
    return {name: version for name, version in found.items() if name not in OWN}


def main() -> int:
    """Print what is wrong; 0 where nothing is."""
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in LOCKS}
    faults = [f"{name}: {fault}" for name, text in texts.items() for fault in faults_of_lock(text)]
    runtime, pins = (pins_of(texts[name]) for name in LOCKS)
    faults += [
        f"{name} is {version} in {LOCKS[0]} and {pins.get(name, 'not')} in {LOCKS[1]}"
        for name, version in runtime.items()
        if pins.get(name) != version
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    faults += faults_of_project(project, pins)
    installed = installed_here()
    used = needed(wanted_by(project), needs_here)
    if absent := used - installed.keys() - OWN:
        faults.append(
            f"not installed, so that what is below them is not known: {', '.join(sorted(absent))}: make install"
        )
    else:
        unused = sorted(pins.keys() - used)
        faults += [f"{name} is locked, and nothing that pyproject.toml asks for needs it" for name in unused]
    other, strange = differences(installed, pins)
    strict = "--strict" in sys.argv[1:]
    for line in (*faults, *other, *(strange if strict else ())):
        print(f"error: {line}", file=sys.stderr)
    for line in () if strict else strange:
        print(f"note: {line}", file=sys.stderr)
    wrong = len(faults) + len(other) + (len(strange) if strict else 0)
    print(f"{len(pins)} packages locked with hashes, {len(installed)} installed, {wrong} errors")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
