from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.clip import ClassPrompt, PromptTable, init_ctx, prompt_name
from npt_core.data.labels import ClassInfo
from npt_core.errors import ConfigError, DuplicatePromptError, PromptError, PromptLengthError
from tests.support.tiny_clip import tiny_backbone

B = tiny_backbone("clip", precision="fp64")
WORDS = "a photo of a"


def from_words(words: str) -> torch.Tensor:
    return init_ctx(B, len(B.tokenizer.encode(words)), words, torch.Generator()).double()


@pytest.mark.parametrize(
    ("position", "sentence"),
    [("end", "a photo of a red panda."), ("middle", "a photo red panda of a."), ("front", "red panda a photo of a.")],
)
@pytest.mark.parametrize("specific", [False, True])
@pytest.mark.parametrize("path", ["fast", "reference"])
def test_context_from_words_gives_the_features_of_the_sentence(
    position: Any, sentence: str, specific: bool, path: Any
) -> None:
    """The strongest check of the assembly: every token must stand where the plain sentence has it."""
    table = PromptTable(B, ["red_panda", "ox"], 4, position)
    ctx = from_words(WORDS)
    ctx = ctx.expand(2, -1, -1) if specific else ctx
    features = B.text(table.assemble(ctx), path=path)
    wanted = B.encode_texts([sentence, sentence.replace("red panda", "ox")])
    torch.testing.assert_close(features, wanted, rtol=0, atol=1e-12)


def test_odd_middle_puts_the_smaller_half_first() -> None:
    table = PromptTable(B, ["ox"], 3, "middle")
    wanted = B.encode_texts(["a ox photo of."])
    torch.testing.assert_close(B.text(table.assemble(from_words("a photo of"))), wanted, rtol=0, atol=1e-12)


def test_grouped_contexts_are_one_prompt_set_each() -> None:
    for position in ("end", "middle", "front"):
        table = PromptTable(B, ["red panda", "ox", "great white shark"], 4, position)
        ctx = torch.stack([from_words(WORDS), from_words("the big old drawing")])
        features = B.text(table.assemble(ctx, grouped=True))
        assert features.shape == (2, 3, B.d)
        for g in range(2):
            torch.testing.assert_close(features[g], B.text(table.assemble(ctx[g])), rtol=0, atol=1e-12)


def test_name_and_full_stop_are_read_together_at_the_end() -> None:
    wanted = B.encode_texts(["a photo of a u.s.."])
    features = B.text(PromptTable(B, ["U.S."], 4).assemble(from_words(WORDS)))
    torch.testing.assert_close(features, wanted, rtol=0, atol=1e-12)


def test_pool_averages_the_phrasings_of_each_class() -> None:
    classes = [ClassPrompt("a", phrasings=("cat", "kitten", "tom cat")), ClassPrompt("b", "dog")]
    table = PromptTable(B, classes, 0)
    assert (table.K, table.N) == (2, 4)
    features = B.text(table.assemble(torch.zeros(0, B.d_text)))
    pooled = table.pool(features)
    torch.testing.assert_close(pooled[0], torch.nn.functional.normalize(features[:3].mean(0), dim=0))
    torch.testing.assert_close(pooled[1], features[3])
    torch.testing.assert_close(table.pool(features.expand(5, -1, -1)), pooled.expand(5, -1, -1))


def test_class_context_reaches_all_phrasings_of_its_class() -> None:
    classes = [ClassPrompt("a", phrasings=("cat", "kitten")), ClassPrompt("b", "dog")]
    table = PromptTable(B, classes, 2)
    ctx = torch.randn(2, 2, B.d_text, dtype=torch.float64)
    torch.testing.assert_close(
        B.text(table.assemble(ctx)), B.text(table.assemble(ctx[torch.tensor([0, 0, 1])])), rtol=0, atol=1e-12
    )


def test_class_prompts() -> None:
    assert ClassPrompt("red_panda") == ClassPrompt("red_panda", "red panda", ("red panda",))
    assert ClassPrompt("x", "red panda").phrasings == ("red panda",)
    assert prompt_name("t-shirt_737-800") == "t-shirt 737-800"
    table = PromptTable(B, [ClassInfo.from_label("red_panda"), "ox"], 1)  # what data sets hand over is taken as it is
    assert table.classes[0] == ClassPrompt("red_panda")


def test_same_words_for_two_classes() -> None:
    with pytest.raises(DuplicatePromptError) as refused:
        PromptTable(B, ["red_panda", "dog", "Red Panda", ClassPrompt("hund", "dog")], 2)
    assert [f.path for f in refused.value.faults] == ["Red Panda", "hund"]
    assert "'red_panda'" in str(refused.value)
    twice = ClassPrompt("dog", phrasings=("dog", "dog"))
    PromptTable(B, [twice, "cat"], 2)  # one class may say the same twice


def test_a_phrasing_shared_by_two_classes() -> None:
    with pytest.raises(DuplicatePromptError):
        PromptTable(B, [ClassPrompt("a", phrasings=("cat", "pet")), ClassPrompt("b", phrasings=("dog", "pet"))], 2)


def test_too_long_names_class_tokens_and_limit() -> None:
    name = "a b c d e f g h i j k l"
    PromptTable(B, [name], 24 - 15)
    with pytest.raises(PromptLengthError, match=r"24 positions.*needs 25 tokens with 10 context vectors, 1 more") as e:
        PromptTable(B, ["ox", name, name + " m"], 24 - 14)
    assert [f.path for f in e.value.faults] == [name, name + " m"]


def test_a_name_without_words() -> None:
    with pytest.raises(PromptError, match="'__'"):
        PromptTable(B, ["cat", "__"], 2)


@pytest.mark.parametrize("shape", [(3, 32), (4, 31), (3, 4, 32), (2, 3, 32), (2, 2, 4, 32)])
def test_contexts_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(PromptError, match="accepted are"):
        PromptTable(B, ["cat", "dog"], 4).assemble(torch.zeros(shape))


def test_deep_context_needs_a_shared_prefix() -> None:
    deep = torch.zeros(1, 4, B.d_text)
    for position, ctx in (("front", torch.zeros(4, B.d_text)), ("end", torch.zeros(2, 4, B.d_text))):
        with pytest.raises(PromptError, match="Deep context"):
            PromptTable(B, ["cat", "dog"], 4, position).assemble(ctx, deep_ctx=deep)  # type: ignore[arg-type]


def test_unknown_position_and_negative_length() -> None:
    with pytest.raises(ConfigError, match="end, middle, front"):
        PromptTable(B, ["cat"], 4, "behind")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="n_ctx"):
        PromptTable(B, ["cat"], -1)


def test_init_from_words_fills_the_places_next_to_the_name() -> None:
    words = B.text.embed(torch.tensor(B.tokenizer.encode(WORDS))).float()
    ctx = init_ctx(B, 6, WORDS, torch.Generator().manual_seed(0))
    assert ctx.dtype == torch.float32
    torch.testing.assert_close(ctx[2:], words)
    assert not torch.equal(ctx[0], ctx[1])
    with pytest.raises(PromptError, match="4 tokens, more than the 3"):
        init_ctx(B, 3, WORDS, torch.Generator())


def test_init_from_noise_is_seeded_and_as_large_as_the_tokens() -> None:
    one, same, other = (init_ctx(B, 64, None, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float(one.std()) == pytest.approx(B.text.embedding_rms(), rel=0.1)
    assert B.text.embedding_rms() == pytest.approx(0.02, rel=0.05)  # open_clip's own first values
    row = B.text.embed(torch.tensor(5))
    assert B.text.embedding_rms(frozenset({5})) == pytest.approx(float(row.pow(2).mean().sqrt()))


def test_unseen_words() -> None:
    trained = set(B.tokenizer.encode("red circle"))
    assert B.tokenizer.unseen_words("Red blue_circle blue", trained) == ["blue"]
    assert B.unseen_words("anything at all") == []  # not known for this one
    known = tiny_backbone("clip", trained_token_ids=frozenset(trained))
    assert known.unseen_words("red square") == ["square"]


def test_identity_of_a_tokenizer() -> None:
    assert B.tokenizer.identity == tiny_backbone("custom").tokenizer.identity
    from npt_core.clip.tokens import Tokenizer

    upper = Tokenizer(lambda t: B.tokenizer.encode(t.upper() + "x"), sos_id=1, eot_id=2, pad_id=0, kind="bpe-49408")
    assert upper.identity != B.tokenizer.identity


class FakeInner:
    """What a Hugging Face tokenizer shows of itself: letters are tokens, 1 ends, 0 pads, maybe 2 begins."""

    pad_token_id: int | None = 0
    sep_token_id = 1

    def __init__(self, begins: bool = True, ends: bool = True) -> None:
        self.begins, self.ends = begins, ends

    def __len__(self) -> int:
        return 300

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        ids = [ord(c) for c in text]
        if add_special_tokens:
            ids = [2] * self.begins + ids + [1] * self.ends
        return type("Encoding", (), {"input_ids": ids})


def test_other_tokenizers_are_read_by_what_they_do() -> None:
    from npt_core.clip.tokens import Tokenizer
    from npt_core.errors import UnsupportedBackboneError

    outer = type("Outer", (), {"tokenizer": FakeInner(), "clean_fn": staticmethod(str.strip)})()
    wrapped = Tokenizer.wrap(outer)
    assert (wrapped.sos_id, wrapped.eot_id, wrapped.pad_id, wrapped.encode(" a ")) == (2, 1, 0, [97])
    outer.strip_sep_token = True
    assert Tokenizer.wrap(outer).eot_id == 0
    outer.strip_sep_token, outer.tokenizer = False, FakeInner(begins=False)
    assert Tokenizer.wrap(outer).sos_id is None
    outer.tokenizer = FakeInner(ends=False)
    with pytest.raises(UnsupportedBackboneError, match="one end token"):
        Tokenizer.wrap(outer)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.text(max_size=12), min_size=1, max_size=4),
    n_ctx=st.integers(0, 6),
    position=st.sampled_from(["end", "middle", "front"]),
)
def test_any_names(labels: list[str], n_ctx: int, position: Any) -> None:
    """Any Unicode at all is either laid out rightly or refused with a prompt error."""
    try:
        table = PromptTable(B, labels, n_ctx, position)
    except PromptError:
        return
    batch = table.assemble(torch.zeros(n_ctx, B.d_text, dtype=torch.float64))
    whole = batch.prefix.shape[0] + batch.suffix.shape[1]
    assert int(batch.eot_index.max()) < whole
    assert B.text(batch).shape == (len(labels), B.d)
