"""CoOp's shapes, positions, starts and refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from npt_core.clip import ClassPrompt, PromptTable
from npt_core.errors import ConfigError, DuplicatePromptError, IncompatibleError, PromptError
from npt_core.methods import Method, get_method
from npt_core.methods.parts.templates import template_features
from npt_core.tuning.config import Schedule, TuneConfig

CLASSES = (ClassPrompt("red"), ClassPrompt("dark_blue"), ClassPrompt("green", "green", ("green", "leaf coloured")))


def make(backbone: Any, seed: int = 0, classes: Any = CLASSES, **config: Any) -> Method:
    cls = get_method("coop")
    return cls(cls.Config(**config), backbone, classes, generator=torch.Generator().manual_seed(seed))


def test_the_default_start_is_the_hand_written_prompt(backbone: Any) -> None:
    made = make(backbone)
    assert made.ctx.shape == (4, backbone.d_text)
    expected = template_features(backbone, CLASSES, ["a photo of a {}."])
    assert torch.allclose(made.encode_text().detach(), expected, atol=1e-5)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("class_specific", [False, True])
def test_every_shape_and_position(backbone: Any, position: str, class_specific: bool) -> None:
    made = make(backbone, position=position, class_specific=class_specific)
    assert made.ctx.shape == ((3, 4, backbone.d_text) if class_specific else (4, backbone.d_text))
    text = made.encode_text()
    assert text.shape == (3, backbone.d)
    text[1].sum().backward()
    assert made.ctx.grad is not None
    if class_specific:
        assert made.ctx.grad[1].abs().sum() > 0
        assert made.ctx.grad[[0, 2]].abs().sum() == 0  # a class's context is its own
    else:
        assert made.ctx.grad.abs().sum() > 0


def test_positions_differ_and_equal_straight_token_strings(backbone: Any) -> None:
    # With the context from words, a prompt is an ordinary sentence: "a photo of a" around the name.
    sentences = {"end": "a photo of a {}.", "middle": "a photo {} of a.", "front": "{} a photo of a."}
    for position, sentence in sentences.items():
        found = make(backbone, position=position).encode_text().detach()
        assert torch.allclose(found, template_features(backbone, CLASSES, [sentence]), atol=1e-5), position


def test_phrasings_are_averaged(backbone: Any) -> None:
    text = make(backbone).encode_text().detach()
    single = make(backbone, classes=[*CLASSES[:2], ClassPrompt("x", "green"), ClassPrompt("y", "leaf coloured")])
    parts = single.encode_text().detach()[2:]
    assert torch.allclose(text[2], torch.nn.functional.normalize(parts.mean(dim=0), dim=0), atol=1e-5)


def test_noise_follows_the_seed(backbone: Any) -> None:
    first, again, other = (make(backbone, seed, n_ctx=16).ctx for seed in (0, 0, 1))
    assert first.shape == (16, backbone.d_text)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    own = make(backbone, n_ctx=16, class_specific=True).ctx
    assert not torch.equal(own[0], own[1])


def test_words_of_the_users_own(backbone: Any) -> None:
    made = make(backbone, n_ctx=3, ctx_init="handwritten number")
    assert torch.equal(made.ctx[1:], PromptTable(backbone, ["handwritten number", "x"], 0)._frozen[0, :2])
    with pytest.raises(PromptError, match="more than the 2 context vectors"):
        make(backbone, n_ctx=2, ctx_init="a photo of a")


def test_new_names_share_what_was_learned(backbone: Any) -> None:
    made = make(backbone)
    other = made.with_classes([ClassPrompt("cat"), ClassPrompt("dog")])
    assert other.ctx is made.ctx
    assert other.encode_text().shape == (2, backbone.d)
    with pytest.raises(IncompatibleError, match="class-specific"):
        make(backbone, class_specific=True).with_classes([ClassPrompt("cat"), ClassPrompt("dog")])


def test_parameters_are_exactly_the_context(backbone: Any) -> None:
    assert [name for name, _ in make(backbone).named_parameters()] == ["ctx"]
    assert list(make(backbone).state_dict()) == ["ctx"]
    assert "backbone" not in dict(make(backbone).named_modules())


def test_chunks_change_nothing_but_memory(backbone: Any) -> None:
    whole, parts = make(backbone), make(backbone)
    parts.chunk = 1
    a, b = whole.encode_text(), parts.encode_text()
    assert torch.allclose(a, b, atol=1e-5)
    weight = torch.randn(a.shape, generator=torch.Generator().manual_seed(5))
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    assert torch.allclose(whole.ctx.grad, parts.ctx.grad, rtol=1e-3, atol=1e-6)


def test_duplicates_are_refused(backbone: Any) -> None:
    with pytest.raises(DuplicatePromptError):
        make(backbone, classes=[ClassPrompt("dark_blue"), ClassPrompt("dark blue")])


def test_templates_need_one_place_for_the_name(backbone: Any) -> None:
    cls = get_method("zero_shot")
    with pytest.raises(ConfigError) as caught:
        cls.Config(templates=("a photo", "{} and {}", "a {}."))
    assert [fault.path for fault in caught.value.faults] == ["templates[0]", "templates[1]"]


def test_zero_shot_averages_its_templates(backbone: Any) -> None:
    cls = get_method("zero_shot")
    config = cls.Config(templates=("a {}.", "the {}."))
    found = cls(config, backbone, CLASSES, generator=torch.Generator()).encode_text()
    parts = [template_features(backbone, CLASSES[:2], [one]) for one in config.templates]
    assert torch.allclose(found[:2], torch.nn.functional.normalize(parts[0] + parts[1], dim=1), atol=1e-5)


def test_the_default_rate_is_coops_on_published_towers_and_larger_where_a_step_would_move_less(backbone: Any) -> None:
    class Tower:
        def __init__(self, scale: float) -> None:
            self.logit_scale = scale

    cls = get_method("coop")
    words, noise = cls.Config(ctx_init="a photo of a"), cls.Config(ctx_init="random")
    assert cls.default_lr(Tower(100), words) == pytest.approx(0.002)
    assert cls.default_lr(Tower(150), words) == pytest.approx(0.002)  # never below
    assert cls.default_lr(Tower(20), words) == pytest.approx(0.01)
    assert cls.default_lr(Tower(20), noise) == pytest.approx(0.002)  # from noise it would go astray
    maple = get_method("maple")
    assert maple.default_lr(Tower(20), maple.Config(ctx_init="a photo")) == pytest.approx(0.0035)
    resolved = Schedule.resolve(TuneConfig(), 30, 3, backbone)
    assert resolved.lr == cls.default_lr(backbone, cls.Config())
    assert Schedule.resolve(TuneConfig(lr=0.3), 30, 3, backbone).lr == 0.3
