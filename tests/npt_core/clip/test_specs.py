from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npt_core.clip.specs import BackboneSpec, close_matches, parse_backbone
from npt_core.errors import UnknownBackboneError


@pytest.mark.parametrize(
    ("entry", "spec"),
    [
        ("demo", BackboneSpec("demo", "demo")),
        (" demo ", BackboneSpec("demo", "demo")),
        ("RN50/cc12m", BackboneSpec("RN50/cc12m", "open_clip", "RN50", "cc12m")),
        ("ViT-B/16/openai", BackboneSpec("ViT-B-16/openai", "open_clip", "ViT-B-16", "openai")),
        ("hf-hub:org/name-1.0", BackboneSpec("hf-hub:org/name-1.0", "hf-hub", None, "org/name-1.0")),
        ("local:mine=ViT-B-16@/w/a@b=c.pt", BackboneSpec("mine", "local", "ViT-B-16", "/w/a@b=c.pt")),
        ("local:mine=ViT-B/16@rel/x.pt", BackboneSpec("mine", "local", "ViT-B-16", "rel/x.pt")),
    ],
)  # fmt: skip
def test_the_four_forms(entry: str, spec: BackboneSpec) -> None:
    assert parse_backbone(entry) == spec


@pytest.mark.parametrize(
    "entry",
    ["", "ViT-B-16", "ViT-B-16/", "/openai", "hf-hub:", "hf-hub:name", "hf-hub:../../x", "local:", "local:x=/a/b",
     "local:=ViT@/a", "local:a/b=ViT@/a", "local:../x=ViT@/a", "local:x=ViT@"],
)  # fmt: skip
def test_anything_else_is_refused_and_says_what_is_accepted(entry: str) -> None:
    with pytest.raises(UnknownBackboneError, match="hf-hub:ORG/NAME") as refused:
        parse_backbone(entry)
    assert repr(entry) in str(refused.value)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(entry: str) -> None:
    try:
        spec = parse_backbone(entry)
    except UnknownBackboneError:
        return
    assert spec.name
    assert spec.kind in ("demo", "open_clip", "hf-hub", "local")


def test_the_name_of_a_local_file_hides_its_path() -> None:
    assert "secret" not in parse_backbone("local:mine=ViT-B-16@/secret/place/w.pt").name


def test_close_matches_ignore_case() -> None:
    assert close_matches("vit-b-16", ["ViT-B-16", "RN50"])[0] == "ViT-B-16"
