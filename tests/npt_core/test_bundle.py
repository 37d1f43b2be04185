"""A classifier as one file: what goes out comes in as it was, and nothing else comes in."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core import Classifier, TuneConfig, tune
from npt_core.bundle import CONTENT_FILES, Origin, load_unpacked, pack, unpack
from npt_core.clip import ClassPrompt
from npt_core.data import Dataset
from npt_core.errors import ArchiveError, BundleError, FingerprintMismatchError
from npt_core.methods import ImageBatch, get_method
from tests.support.bundles import GOOD, HONEST, LYING, edit, member, rewrite, rezipped
from tests.support.pictures import write_folder
from tests.support.tiny_clip import tiny_backbone
from tests.support.zips import RawEntry, raw_zip

ORIGIN = Origin("model_0", "digits", 3, "2026-11-23T22:14:05+00:00")


@pytest.fixture(scope="module")
def saved(backbone: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bundle")
    folder = write_folder(root / "p", {"red": 4, "dark_blue": 4, "green": 4})
    tune(Dataset.from_folder(folder), TuneConfig(epochs=2, views=1), backbone=backbone).classifier.save(root / "m")
    return root / "m"


@pytest.fixture
def zipped(saved: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.zip"
    path.write_bytes(b"".join(pack(saved, ORIGIN)))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class TestRoundTrip:
    def test_every_file_comes_back_byte_for_byte(self, saved: Path, zipped: Path, tmp_path: Path) -> None:
        bundle = unpack(zipped, tmp_path / "out")
        assert content(tmp_path / "out") == content(saved)
        assert bundle.origin == ORIGIN
        assert bundle.manifest == json.loads((saved / "manifest.json").read_text())

    def test_the_same_answers(self, saved: Path, zipped: Path, tmp_path: Path, backbone: Any) -> None:
        unpack(zipped, tmp_path / "out")
        images = torch.nn.functional.normalize(torch.randn(7, backbone.d), dim=1)
        before, after = Classifier.load(saved, backbone), load_unpacked(tmp_path / "out", backbone)
        for labels in (None, ["red", "violet"]):
            one, other = before.predict(images, labels=labels), after.predict(images, labels=labels)
            assert torch.equal(one.probabilities, other.probabilities)
            assert torch.equal(one.similarities, other.similarities)

    def test_the_same_model_gives_the_same_bytes(self, saved: Path, zipped: Path) -> None:
        assert b"".join(pack(saved, ORIGIN)) == zipped.read_bytes()

    def test_holds_safetensors_and_json_only(self, zipped: Path) -> None:
        with zipfile.ZipFile(zipped) as archive:
            assert set(archive.namelist()) == {*CONTENT_FILES, "export.json"}
            assert archive.testzip() is None
            assert all(info.date_time == (1980, 1, 1, 0, 0, 0) for info in archive.infolist())

    def test_without_a_report(self, saved: Path, tmp_path: Path) -> None:
        folder = tmp_path / "m"
        folder.mkdir()
        for name in CONTENT_FILES[:2]:
            (folder / name).write_bytes((saved / name).read_bytes())
        (tmp_path / "x.zip").write_bytes(b"".join(pack(folder, Origin("m"))))
        unpack(tmp_path / "x.zip", tmp_path / "out")
        assert content(tmp_path / "out") == content(folder)

    def test_a_folder_that_goes_meanwhile_is_sent_whole(self, saved: Path, tmp_path: Path) -> None:
        folder = tmp_path / "m"
        folder.mkdir()
        for name, data in content(saved).items():
            (folder / name).write_bytes(data)
        pieces = pack(folder, ORIGIN)
        for path in folder.iterdir():
            path.unlink()
        (tmp_path / "x.zip").write_bytes(b"".join(pieces))
        unpack(tmp_path / "x.zip", tmp_path / "out")
        assert content(tmp_path / "out") == content(saved)

    def test_where_there_is_no_classifier(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            pack(tmp_path, ORIGIN)

    @pytest.mark.parametrize("name", ["apt", "cocoop", "coop", "dpt", "linear_probe", "maple", "tip_adapter", "upt"])
    def test_every_kind_of_method(self, backbone: Any, tmp_path: Path, name: str) -> None:
        classifier = untrained(backbone, name)
        classifier.save(tmp_path / "m")
        (tmp_path / "x.zip").write_bytes(b"".join(pack(tmp_path / "m", ORIGIN)))
        unpack(tmp_path / "x.zip", tmp_path / "out")
        back = load_unpacked(tmp_path / "out", backbone)
        pixels = torch.randn(3, 3, 32, 32)
        for one in (classifier, back):
            one.answer = answer(one, pixels)  # type: ignore[attr-defined]
        assert torch.equal(classifier.answer, back.answer)  # type: ignore[attr-defined]


def untrained(backbone: Any, name: str) -> Classifier:
    """Of random learned values, so that they matter."""
    kind = get_method(name)
    classes = [ClassPrompt(label) for label in ("red", "green", "blue")]
    method = kind(kind.Config(), backbone, classes, generator=torch.Generator().manual_seed(0))
    features = torch.nn.functional.normalize(torch.randn(6, 1, backbone.d), dim=-1)
    if method.image_input.value == "pooled":
        method.fit(features, torch.tensor([0, 1, 2, 0, 1, 2]))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    described = [{"label": one.label, "name": one.name, "phrasings": list(one.phrasings)} for one in classes]
    facts = {"method": name, "method_config": method.config.to_dict(), "classes": described}
    return Classifier(method, GOOD | facts | {"backbone": {"name": "tiny", "fingerprint": backbone.fingerprint}})


def answer(classifier: Classifier, pixels: torch.Tensor) -> torch.Tensor:
    backbone = classifier.backbone
    with torch.no_grad():
        if classifier.needs_pixels:
            return classifier.predict(pixels).probabilities
        if classifier.needs_tokens:
            seen = backbone.image.encode_tokens(pixels)
            return classifier.predict(seen.pooled, tokens=seen.tokens).probabilities
        return classifier.predict(backbone.encode_images(pixels)).probabilities


@settings(max_examples=25)
@given(
    name=st.none() | st.text(st.characters(codec="utf-8", categories=["L", "N", "S", "Zs"]), min_size=1, max_size=40),
    version=st.none() | st.integers(1, 10**9 - 1),
    extra=st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=4),
    tensors=st.binary(max_size=300),
)
def test_any_facts_and_any_bytes_come_back(
    tmp_path_factory: pytest.TempPathFactory, name: str | None, version: int | None, extra: Any, tensors: bytes
) -> None:
    root = tmp_path_factory.mktemp("any")
    (root / "m").mkdir()
    blob = torch.frombuffer(bytearray(tensors or b"\0"), dtype=torch.uint8)
    (root / "m" / "classifier.safetensors").write_bytes(safetensors.torch.save({"learned.x": blob}))
    (root / "m" / "manifest.json").write_text(json.dumps(GOOD | {"metrics": extra}))
    origin = Origin("m", name if name is None or name.strip() else "x", version)
    pieces = list(pack(root / "m", origin))
    (root / "x.zip").write_bytes(b"".join(pieces))
    bundle = unpack(root / "x.zip", root / "out")
    assert bundle.origin == origin
    assert content(root / "out") == content(root / "m")


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HONEST)
def test_what_is_no_exported_model_is_refused(zipped: Path, tmp_path: Path, name: str) -> None:
    change, says = HONEST[name]
    (tmp_path / "bad.zip").write_bytes(rezipped(zipped, change))
    with pytest.raises(BundleError) as caught:
        unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert says in caught.value.message
    assert caught.value.faults


@pytest.mark.parametrize("name", LYING)
def test_what_is_not_what_was_exported_is_refused(zipped: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "bad.zip").write_bytes(rezipped(zipped, LYING[name], honest=False))
    with pytest.raises(BundleError):
        unpack(tmp_path / "bad.zip", tmp_path / "out")


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"no zip at all",
        raw_zip([RawEntry(b"../manifest.json", b"{}")]),
        raw_zip([RawEntry(b"manifest.json", b"{}", mode=0o120777)]),
        raw_zip([RawEntry(b"manifest.json", b"{}"), RawEntry(b"MANIFEST.json", b"{}")]),
        raw_zip([RawEntry(b"manifest.json", b"{}", flags=0x801)]),
        raw_zip([RawEntry(b"manifest.json", b"{}", method=12)]),
        raw_zip([RawEntry(b"manifest.json", b"{}")], prefix=b"#!/bin/sh\n"),
        raw_zip([RawEntry(b"manifest.json", b"{}"), RawEntry(b"export.json", b"{}", offset=0)]),
        raw_zip([RawEntry(f"{n}.json".encode(), b"{}") for n in range(100)]),
    ],
    ids=["empty", "text", "slip", "link", "case", "encrypted", "bzip2", "polyglot", "overlap", "crowd"],
)
def test_hostile_zips_are_refused(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "bad.zip").write_bytes(blob)
    with pytest.raises((ArchiveError, BundleError)):
        unpack(tmp_path / "bad.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bomb_is_refused_before_it_is_unpacked(zipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bomb.zip").write_bytes(rezipped(zipped, member("report.json", b" " * 70_000_000)))
    assert (tmp_path / "bomb.zip").stat().st_size < 1_000_000
    monkeypatch.setattr("npt_core.data.archive.SafeArchive.read", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(BundleError, match=r"report.json unpacks to 70,000,000 bytes"):
        unpack(tmp_path / "bomb.zip", tmp_path / "out")


def test_a_lying_size_is_found(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(raw_zip([RawEntry(b"export.json", b"x" * 5000, size=10)]))
    with pytest.raises((ArchiveError, BundleError)):
        unpack(tmp_path / "bad.zip", tmp_path / "out")


def test_more_tensors_than_accepted(zipped: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="classifier.safetensors unpacks to"):
        unpack(zipped, tmp_path / "out", max_tensor_bytes=100)


# --- what only the backbone can tell ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: rewrite(f, lambda t: t.pop("learned.ctx")), "ctx is missing"),
        (lambda f: rewrite(f, lambda t: t.update({"learned.ctx": torch.zeros(5, 32)})), "expected"),
        (lambda f: rewrite(f, lambda t: t["learned.ctx"].fill_(float("inf"))), "NaN or infinite"),
        (lambda f: rewrite(f, lambda t: t["text_features"].fill_(float("nan"))), "NaN or infinite"),
        (lambda f: rewrite(f, lambda t: t["text_features"].fill_(3e38)), "NaN or infinite scores"),
        (lambda f: rewrite(f, lambda t: t.update({"text_features": torch.zeros(2, 16)})), "text features of shape"),
        (lambda f: rewrite(f, lambda t: t.update({"hidden": torch.zeros(2)})), "no part of a classifier: hidden"),
        (lambda f: edit(f, method="no_such"), "no_such"),
        (lambda f: edit(f, method_config={"n_ctx": 0}), "n_ctx"),
        (lambda f: edit(f, method_config={"n_ctx": 64}), "64"),
        (lambda f: edit(f, tuned_share=2), "tuned_share"),
        (lambda f: edit(f, classes=[{"label": c, "name": "same", "phrasings": ["same"]} for c in "abc"]), "same"),
        (lambda f: edit(f, classes=[{"label": c, "name": "w", "phrasings": ["w " * 200]} for c in "abc"]), "w w"),
    ],
)
def test_what_does_not_fit_the_backbone_is_refused(
    saved: Path, tmp_path: Path, backbone: Any, damage: Callable[[Path], Any], says: str
) -> None:
    (tmp_path / "m").mkdir()
    for name, data in content(saved).items():
        (tmp_path / "m" / name).write_bytes(data)
    damage(tmp_path / "m")
    with pytest.raises(BundleError) as caught:
        load_unpacked(tmp_path / "m", backbone)
    assert says in caught.value.message


def test_a_vote_for_a_class_that_is_not_there_is_refused(tmp_path: Path, backbone: Any) -> None:
    untrained(backbone, "tip_adapter").save(tmp_path / "m")
    for value in (3, -1):
        rewrite(tmp_path / "m", lambda t, value=value: t["learned.values"].fill_(value))
        with pytest.raises(BundleError, match="there are 3"):
            load_unpacked(tmp_path / "m", backbone)


def test_another_backbone_is_refused(saved: Path) -> None:
    with pytest.raises(FingerprintMismatchError):
        load_unpacked(saved, tiny_backbone("clip", seed=1))


def test_a_method_the_backbone_cannot_carry(tmp_path: Path, backbone: Any) -> None:
    resnet = tiny_backbone("resnet")
    untrained(backbone, "maple").save(tmp_path / "m")
    edit(tmp_path / "m", backbone={"name": "r", "fingerprint": resnet.fingerprint})
    with pytest.raises(BundleError, match="image tower"):
        load_unpacked(tmp_path / "m", resnet)


def test_parts_of_a_batch() -> None:
    batch = ImageBatch(features=torch.arange(6).reshape(3, 2), labels=torch.arange(3))
    part = batch.part(1, 9)
    assert part.features is not None
    assert part.labels is not None
    assert (part.features.tolist(), part.labels.tolist(), part.pixels) == ([[2, 3], [4, 5]], [1, 2], None)
