"""Class names: of every length, too long, twice the same, new after tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from npt_core import Dataset
from npt_core.errors import DuplicatePromptError, IncompatibleError, PromptLengthError
from npt_core.methods import Method
from tests.contract.cases import CASES, Case, batch_of, ids, images, make, run, shaken
from tests.support.pictures import write_folder
from tests.support.tiny_clip import tiny_backbone

READERS = [case for case in CASES if case.cls.has_text_features]
WORDS = ["cat", "dog", "car", "tree", "house", "ball", "bird", "fish", "book", "door", "hand", "lamp", "moon"]
WORDS += ["ring", "ship", "star", "sun", "wall", "hat", "king"]
NAMES = tuple(" ".join((WORDS[n:] + WORDS)[: n + 1]) for n in range(20))


@pytest.fixture(scope="module")
def roomy() -> Any:
    """Positions for any of the names, as published towers have them."""
    return tiny_backbone("clip", text={"width": 48, "context_length": 77})


def test_the_names_have_1_to_20_tokens(roomy: Any) -> None:
    assert [len(roomy.tokenizer.encode(name)) for name in NAMES] == list(range(1, 21))


def alike(case: Case, backbone: Any, whole: Method, chosen: list[int], names: tuple[str, ...] = NAMES) -> Method:
    """The method on some of the classes, with what `whole` has learned."""
    part = make(backbone, case, tuple(names[n] for n in chosen))
    if whole.new_classes_refusal() is None or not whole.supports_new_classes:
        part.share_learned(whole)
    else:
        part.ctx.data.copy_(whole.ctx.data[chosen])  # contexts of their own
    return part


@pytest.mark.parametrize("case", READERS, ids=ids)
def test_names_of_1_to_20_tokens(case: Case, roomy: Any) -> None:
    made = shaken(make(roomy, case, NAMES), 0.05)
    batch = batch_of(roomy, case, labels=torch.tensor([0, 19, 7]))
    output = made(batch)
    assert torch.isfinite(output.logits).all()
    if output.logits.requires_grad:
        F.cross_entropy(output.logits, batch.labels).backward()
        assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
    with torch.no_grad():
        for short in range(10):  # every name once, beside one of another length
            chosen = [short, 19 - short]
            alone = alike(case, roomy, made, chosen)(batch_of(roomy, case))
            torch.testing.assert_close(
                alone.text_features, output.text_features[..., chosen, :], rtol=0, atol=2e-5, msg=f"tokens: {chosen}"
            )
        lions = tuple(" ".join([*name.split()[:-1], "lion"]) for name in NAMES)
        changed = alike(case, roomy, made, list(range(20)), lions)(batch_of(roomy, case)).text_features
        apart = (changed - output.text_features).norm(dim=-1)
        assert float(apart.min()) > 1e-3  # the last word of the longest name is read too


LONG = ("word " * 40).strip()
"""Longer than the tower whatever stands around it."""
JUST = ("word " * 19).strip()
"""Fits into 24 positions by itself (start, full stop, end), not behind "a photo of a"."""


@pytest.mark.parametrize("case", READERS, ids=ids)
def test_names_too_long_for_the_context_are_refused_by_name(case: Case, backbone: Any) -> None:
    with pytest.raises(PromptLengthError, match="first, class 'word word") as caught:
        make(backbone, case, ("cat", LONG, f"big {LONG}"))
    assert [fault.path for fault in caught.value.faults] == [LONG, f"big {LONG}"]
    assert "Shorten the names" in str(caught.value)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_names_too_long_for_a_template_are_refused_by_name(case: Case, backbone: Any) -> None:
    with pytest.raises(PromptLengthError, match="class 'word word.*Shorten") as caught:
        make(backbone, case, ("cat", JUST)).zero_shot_text()
    assert [fault.path for fault in caught.value.faults] == [JUST]


@pytest.mark.parametrize("name", [JUST, LONG], ids=["template", "context"])
@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_tuning_says_which_name_is_too_long(case: Case, name: str, backbone: Any, tmp_path: Path) -> None:
    with pytest.raises(PromptLengthError, match="class 'word word"):
        run(Dataset.from_folder(write_folder(tmp_path, {"cat": 1, name: 1})), backbone, case, "none")


@pytest.mark.parametrize("case", READERS, ids=ids)
def test_the_same_words_twice_are_refused_by_name(case: Case, backbone: Any) -> None:
    with pytest.raises(DuplicatePromptError, match="'dark blue': 'dark blue' also names class 'dark_blue'"):
        make(backbone, case, ("red", "dark_blue", "dark blue"))


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_new_class_names_work_or_are_refused_with_a_reason(case: Case, dataset: Dataset, backbone: Any) -> None:
    classifier = run(dataset, backbone, case, "none").classifier
    batch = images(backbone, classifier)
    own = classifier.predict(**batch)
    part = classifier.predict(**batch, labels=[dataset.labels[2], dataset.labels[0]])
    assert torch.equal(part.similarities, own.similarities[:, [2, 0]])  # its own names always work
    if classifier.method.new_classes_refusal() is None:
        found = classifier.predict(**batch, labels=["a purple cow", "red", "seven", "tree"])
        assert found.probabilities.shape == (7, 4)
        assert torch.isfinite(found.probabilities).all()
        if not classifier.method.image_depends_on_classes:
            assert torch.allclose(found.similarities[:, 1], own.similarities[:, dataset.labels.index("red")], atol=1e-5)
    else:
        with pytest.raises(IncompatibleError, match=r"cannot take other class names: .+"):
            classifier.predict(**batch, labels=["red", "tree"])
