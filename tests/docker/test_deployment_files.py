"""What is deployed names what there is: settings, Compose files, the lock file's two halves."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from app.settings import AppSettings
from tests.support.service import ROOT

SETTING = re.compile(r"^(#? ?)([A-Z][A-Z0-9_]*)=(.*)$")
COMPOSE_VARIABLE = re.compile(r"\$\{([A-Z_]+)[:?}-]")
SECRETS = {"REDIS_PASSWORD"}
BASE, GPU, SCALE = "docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.scale.yml"
FILES = (BASE, GPU, SCALE)
ONCE = {"prefetch"}  # does its work and ends
BASE_IMAGES = {
    "PYTHON_IMAGE": "python:3.11-slim-bookworm",
    "REDIS_IMAGE": "redis:7.2-bookworm",
    "NGINX_IMAGE": "nginx:1.28-bookworm",
}


def example() -> dict[str, tuple[bool, str]]:
    """Name -> (commented out?, value) of every variable in .env.example."""
    found: dict[str, tuple[bool, str]] = {}
    for line in (ROOT / ".env.example").read_text().splitlines():
        if match := SETTING.match(line):
            assert match[2] not in found, f"{match[2]} is there twice"
            found[match[2]] = (bool(match[1]), match[3])
    return found


def compose_variables() -> set[str]:
    return set(COMPOSE_VARIABLE.findall("".join((ROOT / name).read_text() for name in FILES)))


def test_env_example_names_every_setting_and_nothing_else() -> None:
    settings = {f"NPT_{name.upper()}" for name in AppSettings.model_fields}
    assert set(example()) == settings | compose_variables()


def test_env_example_shows_the_defaults_of_the_compose_files() -> None:
    text = "".join((ROOT / name).read_text() for name in FILES)
    defaults = set(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text))
    assert defaults <= {(name, value) for name, (_, value) in example().items()}


def test_env_example_sets_the_secrets_alone() -> None:
    assert {name for name, (commented, _) in example().items() if not commented} == SECRETS
    assert {example()[name][1] for name in SECRETS} == {""}


def test_env_example_shows_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = AppSettings()
    for name, (_, value) in example().items():
        if value and name.startswith("NPT_"):
            monkeypatch.setenv(name, value)
    assert AppSettings() == defaults


def test_every_setting_is_explained() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    for number, line in enumerate(lines):
        if SETTING.match(line):
            above = next(text for text in reversed(lines[:number]) if not SETTING.match(text))
            assert re.match(r"# \S", above), f"nothing explains {line}"
            assert not above.startswith("# ---"), f"nothing explains {line}"


def services(*files: str) -> dict[str, dict[str, Any]]:
    return {
        name: service
        for file in files
        for name, service in yaml.safe_load((ROOT / file).read_text())["services"].items()
    }


def test_every_service_is_hardened_and_healthy() -> None:
    everything = services(SCALE) | services(BASE)
    assert set(everything) == {"api", "worker", "redis", "proxy", *ONCE}
    for name, service in everything.items():
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["tmpfs"] == (["/tmp", "/data"] if name == "redis" else ["/tmp"]), name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert "mem_limit" in service, name
        assert "pids_limit" in service, name
        assert "hostname" not in service, name  # the node's name of every replica
        assert service["restart"] == ("no" if name in ONCE else "unless-stopped"), name
        assert ("healthcheck" in service) != (name in ONCE), name


def test_only_the_api_is_published_and_only_on_loopback() -> None:
    published = {name: service["ports"] for name, service in services(BASE).items() if "ports" in service}
    assert published == {"api": ["${PUBLISH:-127.0.0.1:8000}:8000"]}
    assert services(SCALE)["proxy"]["ports"] == ["${PROXY_PUBLISH:-127.0.0.1:8000}:8080"]


def test_the_api_is_closed_until_there_is_a_key() -> None:
    environment = services(BASE)["api"]["environment"]
    assert environment["NPT_REQUIRE_KEY"] == "true"
    assert "NPT_API_KEYS" not in environment  # what .env says, and no default


def test_no_secret_is_an_argument_of_a_process() -> None:
    for name, service in (services(SCALE) | services(BASE)).items():
        assert "${REDIS_PASSWORD" not in str(service.get("command", "")), name
        assert "$REDIS_PASSWORD" not in str(service.get("healthcheck", "")), name


# -- what a real Compose makes of them; both are tried where they are installed


def installed(command: tuple[str, ...]) -> bool:
    if not shutil.which(command[0]):
        return False
    return subprocess.run([*command, "version"], capture_output=True).returncode == 0


@pytest.fixture(params=[("docker-compose",), ("docker", "compose")], ids=" ".join)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    if not installed(request.param):
        pytest.skip(f"{' '.join(request.param)} is not installed")
    for file in FILES:
        shutil.copy(ROOT / file, tmp_path)
    return Project(tmp_path, request.param)


@dataclass(frozen=True)
class Project:
    """A folder with the Compose files, and a Compose to read them."""

    folder: Path
    command: tuple[str, ...]

    def fill_in(self, **values: str) -> None:
        """Write .env as its header says."""
        text = (ROOT / ".env.example").read_text()
        self.folder.joinpath(".env").write_text(text + "".join(f"{name}={value}\n" for name, value in values.items()))

    def config(self, *files: str) -> subprocess.CompletedProcess[str]:
        """What Compose makes of these files."""
        arguments = [part for file in files for part in ("-f", file)]
        return subprocess.run(
            [*self.command, *arguments, "config"],
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "")},
            capture_output=True,
            text=True,
        )

    def loaded(self, *files: str) -> dict[str, dict[str, Any]]:
        """The services it would start."""
        done = self.config(*files)
        assert done.returncode == 0, done.stderr
        found: dict[str, dict[str, Any]] = yaml.safe_load(done.stdout)["services"]
        return {name: service for name, service in found.items() if name not in ONCE}


def test_compose_refuses_to_start_without_a_password(project: Project) -> None:
    project.fill_in()
    refused = project.config(BASE)
    assert refused.returncode != 0
    assert "REDIS_PASSWORD" in refused.stderr
    assert "in .env, see .env.example" in refused.stderr


@pytest.mark.parametrize("files", [(BASE,), (BASE, GPU), (BASE, SCALE), (BASE, GPU, SCALE)], ids="+".join)
def test_compose_accepts_the_files_together(project: Project, files: tuple[str, ...]) -> None:
    project.fill_in(REDIS_PASSWORD="secret", WORKER_REPLICAS="3", API_CPUS="1.5")  # noqa: S106 - made up
    loaded = project.loaded(*files)
    assert set(loaded) == {"api", "worker", "redis"} | ({"proxy"} if SCALE in files else set())
    assert loaded["api"]["environment"]["NPT_REDIS_URL"] == "redis://:secret@redis:6379/0"
    assert loaded["api"]["environment"]["NPT_REQUIRE_KEY"] == "true"
    assert loaded["worker"]["environment"]["NPT_API_KEYS"] == ""
    assert float(loaded["api"]["cpus"]) == 1.5
    deployed = {name: service["deploy"] for name, service in loaded.items() if "deploy" in service}
    reserved = {name: deploy["resources"]["reservations"] for name, deploy in deployed.items() if "resources" in deploy}
    assert set(reserved) == ({"api", "worker"} if GPU in files else set())
    for reservations in reserved.values():
        (device,) = reservations["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
        assert device["count"] in ("all", -1)
    replicas = {name: int(deploy["replicas"]) for name, deploy in deployed.items() if "replicas" in deploy}
    assert replicas == ({"api": 2, "worker": 3} if SCALE in files else {})


def base_images(loaded: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Variable -> the image that Compose would take for it."""
    built = {loaded[name]["build"]["args"]["PYTHON_IMAGE"] for name in ("api", "worker")}
    assert len(built) == 1
    return {
        "PYTHON_IMAGE": built.pop(),
        "REDIS_IMAGE": loaded["redis"]["image"],
        "NGINX_IMAGE": loaded["proxy"]["image"],
    }


def test_base_images_are_the_official_ones_or_those_of_env(project: Project) -> None:
    project.fill_in(REDIS_PASSWORD="secret")  # noqa: S106 - made up
    assert base_images(project.loaded(BASE, SCALE)) == BASE_IMAGES
    mirrored = {name: f"registry.example.org:5000/hub/{image}" for name, image in BASE_IMAGES.items()}
    project.fill_in(REDIS_PASSWORD="secret", **mirrored)  # noqa: S106 - made up
    assert base_images(project.loaded(BASE, SCALE)) == mirrored


def documented() -> list[str]:
    """The Compose files that docs/deploy.md shows to be put beside ours."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    return [textwrap.dedent(found) for found in re.findall(r"^ *```yaml\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)]


def test_compose_accepts_what_is_documented(project: Project) -> None:
    files = documented()
    assert len(files) >= 4
    (project.folder / "npt_keys").write_text("# none\n")
    project.fill_in(REDIS_PASSWORD="secret", REDIS_HOST="10.0.0.1", NPT_REDIS_URL=ELSEWHERE["NPT_REDIS_URL"])  # noqa: S106 - made up
    for text in files:
        (project.folder / "docker-compose.override.yml").write_text(text)
        loaded = project.loaded(BASE, "docker-compose.override.yml")
        own = "NPT_REDIS_URL" not in text
        wanted = "redis://:secret@10.0.0.1:6379/0" if own else ELSEWHERE["NPT_REDIS_URL"]
        assert loaded["api"]["environment"]["NPT_REDIS_URL"] == wanted


ELSEWHERE = {
    "NPT_STORE_URL": "s3://my-bucket/npt",
    "NPT_S3_ENDPOINT": "https://minio.example:9000",
    "NPT_REDIS_URL": "rediss://npt:pass%24word@redis.example:6379/0?ssl_ca_certs=/etc/npt/ca.pem",
    "AWS_ACCESS_KEY_ID": "an-id",
    "AWS_SECRET_ACCESS_KEY": "a/secret+with=signs",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_CA_BUNDLE": "/etc/npt/ca.pem",
}


def test_a_bucket_and_a_redis_elsewhere_reach_api_and_worker(project: Project) -> None:
    """By .env and the override that the documentation shows, which is no use without a URL."""
    shown = (ROOT / "docs" / "deploy.md").read_text().partition("### Compose with a bucket, Redis elsewhere")[2]
    (lines,) = re.findall(r"^```sh\n(.*?)^```$", shown, re.MULTILINE | re.DOTALL)
    assert [line.partition("=")[0] for line in lines.splitlines()] == list(ELSEWHERE)
    (override,) = [text for text in documented() if "NPT_REDIS_URL" in text]
    (project.folder / "docker-compose.override.yml").write_text(override)
    for files in ((BASE,), (BASE, SCALE), (BASE, GPU)):
        project.fill_in(REDIS_PASSWORD="unused", **ELSEWHERE)  # noqa: S106 - made up
        loaded = project.loaded(*files, "docker-compose.override.yml")
        for name in ("api", "worker"):
            environment = loaded[name]["environment"]
            assert {key: environment.get(key) for key in ELSEWHERE} == ELSEWHERE, name
            assert "/etc/npt/ca.pem" in str(loaded[name]["volumes"]), name
            assert "/data" in str(loaded[name]["volumes"]), name
    project.fill_in(REDIS_PASSWORD="unused")  # noqa: S106 - made up
    refused = project.config(BASE, "docker-compose.override.yml")
    assert (refused.returncode != 0, "set NPT_REDIS_URL in .env" in refused.stderr) == (True, True)


def test_each_replica_can_have_a_free_port(project: Project) -> None:
    project.fill_in(REDIS_PASSWORD="secret", PUBLISH="127.0.0.1:")  # noqa: S106 - made up
    (port,) = project.loaded(BASE, SCALE)["api"]["ports"]
    if isinstance(port, str):
        assert port.removesuffix("/tcp") == "127.0.0.1::8000"
    else:
        assert (port["target"], port["host_ip"], port.get("published")) == (8000, "127.0.0.1", None)


# -- the images


def dockerfile() -> str:
    return (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", "")


def stages() -> dict[str, str]:
    """Name -> text of each stage."""
    parts = re.split(r"^FROM \S+ AS (\S+)\n", dockerfile(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(), re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == kept
    assert not [source for source in copied if not (ROOT / source).exists()]


def test_every_stage_stands_on_the_base_image_that_is_named() -> None:
    assert f"\nARG PYTHON_IMAGE={BASE_IMAGES['PYTHON_IMAGE']}\n" in dockerfile()
    built_on = set(re.findall(r"^FROM (\S+)", dockerfile(), re.MULTILINE)) - set(stages())
    assert built_on == {"${PYTHON_IMAGE}"}


def test_every_builder_can_build_it() -> None:
    text = dockerfile()
    assert "--mount" not in text  # BuildKit's own
    assert "# syntax" not in text
    assert "<<" not in text


def test_the_final_images_install_nothing_and_are_not_root() -> None:
    final = stages()["runtime"] + stages()["api"] + stages()["worker"]
    runs = re.findall(r"^RUN (.*)$", final, re.MULTILINE)
    assert not [run for run in runs if re.search(r"\b(pip|apt|apt-get|curl|wget)\b", run)]
    assert re.findall(r"^USER (.*)$", final, re.MULTILINE) == ["10001:10001"]


def test_what_changes_with_every_build_comes_last() -> None:
    runtime = stages()["runtime"]
    order = [runtime.index(part) for part in ("/opt/torch /opt", "/opt/venv /opt", "/opt/npt /opt", "LABEL", "USER")]
    assert order == sorted(order)


def test_the_version_is_the_one_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"ARG VERSION={version}\n" in dockerfile()


@pytest.fixture(scope="module")
def splitter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("split_lock", ROOT / "docker" / "split_lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(text: str) -> set[str]:
    return set(re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE))


def test_the_two_halves_are_the_lock(splitter: ModuleType) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    torch, rest = splitter.split(lock, other_index=False)
    assert names(torch) | names(rest) == names(lock)
    assert not names(torch) & names(rest)
    assert (torch + rest).count("--hash=") == lock.count("--hash=")
    assert {"torch", "torchvision"} <= names(torch)
    assert "fastapi" in names(rest)
    assert not [name for name in names(rest) if name.startswith(("nvidia-", "triton", "torch"))] or names(rest) >= {
        "torchmetrics"
    }


def test_another_index_brings_torch_alone_and_no_cuda(splitter: ModuleType) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    torch, rest = splitter.split(lock, other_index=True)
    assert names(torch) == {"torch", "torchvision"}
    assert "--hash=" not in torch
    assert not [name for name in names(rest) if name.startswith(("nvidia-", "cuda-", "triton"))]
    assert "sympy" in names(rest)  # torch needs it whatever its build
    kept = {f"torch=={version}" for version in re.findall(r"^torch==(\S+)", lock, re.MULTILINE)}
    assert set(torch.split()) >= kept
