"""What a context starts from, and the words that stand behind it where it is shorter than the hand-written prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from npt_core.clip import ClassPrompt, PromptTable
from npt_core.errors import ConfigError
from npt_core.methods import Method, get_method
from npt_core.methods.parts.context import split_start, start_text
from npt_core.methods.parts.templates import template_features
from tests.support.tiny_clip import tiny_backbone

CLASSES = (ClassPrompt("red"), ClassPrompt("dark_blue"), ClassPrompt("green", "green", ("green", "leaf coloured")))


def knowing(backbone: Any, *words: str) -> Any:
    ids = {i for word in words for i in backbone.tokenizer.encode(word)}
    return tiny_backbone("clip", trained_token_ids=frozenset(ids))


def make(name: str, backbone: Any, **config: Any) -> Method:
    cls = get_method(name)
    return cls(cls.Config(**config), backbone, CLASSES, generator=torch.Generator().manual_seed(0))


def test_a_backbone_that_knows_few_words_starts_from_words_it_knows(backbone: Any) -> None:
    assert start_text(backbone, 4) == "a photo of a"
    assert start_text(backbone, 16) is None
    assert start_text(knowing(backbone, "a", "picture", "of"), 4) == "a picture of a"
    assert start_text(knowing(backbone, "red"), 4) is None


def test_what_does_not_fit_stands_behind_the_context(backbone: Any) -> None:
    found = [split_start(backbone, n_ctx, "auto") for n_ctx in (1, 2, 3, 4, 5)]
    assert found == [("a", "photo of a"), ("a photo", "of a"), ("a photo of", "a"), ("a photo of a", ""), (None, "")]
    assert split_start(backbone, 2, "random") == (None, "")
    assert split_start(backbone, 2, "dark blue") == ("dark blue", "")
    assert split_start(knowing(backbone, "a", "picture", "of"), 2, "auto") == ("a picture", "of a")
    assert split_start(knowing(backbone, "red"), 2, "auto") == (None, "")


@pytest.mark.parametrize("name", ["maple", "promptsrc"])
@pytest.mark.parametrize("n_ctx", [1, 2, 3, 4])
def test_deep_prompts_start_from_the_whole_hand_written_one(name: str, n_ctx: int, backbone: Any) -> None:
    made = make(name, backbone, n_ctx=n_ctx, prompt_depth=1)
    assert made.ctx.shape == (n_ctx, backbone.d_text)
    expected = template_features(backbone, CLASSES, ["a photo of a {}."])
    assert torch.allclose(made.encode_text().detach(), expected, atol=1e-5)
    other = made.with_classes([ClassPrompt("cat"), ClassPrompt("dog")])
    expected = template_features(backbone, other.classes, ["a photo of a {}."])
    assert torch.allclose(other.encode_text().detach(), expected, atol=1e-5)


def test_a_short_context_of_coop_has_nothing_behind_it(backbone: Any) -> None:
    assert make("coop", backbone, n_ctx=2).table.lead == ""


def test_words_before_the_name_go_with_a_name_at_the_end(backbone: Any) -> None:
    assert PromptTable(backbone, ["cat"], 2, lead="of a").N == 1
    with pytest.raises(ConfigError, match="position 'end', not 'front'"):
        PromptTable(backbone, ["cat"], 2, "front", lead="of a")
