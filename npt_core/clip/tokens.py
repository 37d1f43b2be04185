"""Class names as tokens, and the assembly SOS | ctx | name | "." | EOT of learned prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch.nn import functional as F

from npt_core.clip.prompts import PromptBatch
from npt_core.data.labels import prompt_name as prompt_name
from npt_core.errors import (
    ConfigError,
    DuplicatePromptError,
    Fault,
    PromptError,
    PromptLengthError,
    UnsupportedBackboneError,
)

if TYPE_CHECKING:
    from npt_core.clip.text import TextTower

Position = Literal["end", "middle", "front"]
POSITIONS: tuple[Position, ...] = ("end", "middle", "front")

_PROBES = ("a photo of a cat.", "Hand-written 7, nº 10!", "it's ΩMEGA_1 naïve")


class Tokenizer:
    """Words to token ids, without the special tokens at either end.

    Args:
        encode: Cleans and encodes one text, special tokens left out.
        sos_id: Id that starts every text, None where the tower was trained without one.
        eot_id: Id that ends every text.
        pad_id: Id of the positions after the end.
        kind: What tokenizer it is; part of the identity.
    """

    def __init__(
        self, encode: Callable[[str], list[int]], *, sos_id: int | None, eot_id: int, pad_id: int, kind: str
    ) -> None:
        self._encode = encode
        self.sos_id, self.eot_id, self.pad_id, self.kind = sos_id, eot_id, pad_id, kind

    def encode(self, text: str) -> list[int]:
        """The ids of `text` without start and end tokens."""
        return self._encode(text)

    def unseen_words(self, text: str, trained_ids: Collection[int]) -> list[str]:
        """The words of `text`, each once and in order, that have a token outside `trained_ids`."""
        words = dict.fromkeys(prompt_name(text).split())
        return [word for word in words if not set(self.encode(word)) <= set(trained_ids)]

    @property
    def identity(self) -> str:
        """Equal for tokenizers that turn text into the same ids (as far as a few probes tell)."""
        facts = [self.kind, self.sos_id, self.eot_id, self.pad_id, [self.encode(probe) for probe in _PROBES]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @classmethod
    def wrap(cls, tokenizer: Any, *, pad_id: int = 0) -> Tokenizer:
        """Wrap one of open_clip's tokenizers.

        Args:
            tokenizer: A `SimpleTokenizer`, `HFTokenizer` or `SigLipTokenizer` of open_clip.
            pad_id: The text tower's own padding id, used where the tokenizer has none.
        """
        if hasattr(tokenizer, "sot_token_id"):  # open_clip pads its own tokenizer with zeros, whatever the tower says
            return cls(
                tokenizer.encode,
                sos_id=tokenizer.sot_token_id,
                eot_id=tokenizer.eot_token_id,
                pad_id=0,
                kind=f"bpe-{tokenizer.vocab_size}",
            )
        inner = tokenizer.tokenizer
        clean = getattr(tokenizer, "clean_fn", None) or _canonicalize

        def encode(text: str) -> list[int]:
            return [int(i) for i in inner(clean(text), add_special_tokens=False).input_ids]

        plain, dressed = encode("a"), [int(i) for i in inner("a").input_ids]  # what it puts around a word
        if dressed[-1] == plain[-1] or getattr(tokenizer, "tokenizer_mode", "") == "clips":
            raise UnsupportedBackboneError(
                f"The tokenizer {type(inner).__name__} does not end a text with one end token; prompts need that."
            )
        stripped = getattr(tokenizer, "strip_sep_token", False) and dressed[-1] == inner.sep_token_id
        return cls(
            encode,
            sos_id=None if dressed[: len(plain)] == plain else dressed[0],
            eot_id=0 if stripped else dressed[-1],
            pad_id=pad_id if inner.pad_token_id is None else int(inner.pad_token_id),
            kind=f"{type(inner).__name__}-{len(inner)}",
        )


def _canonicalize(text: str) -> str:
    from open_clip.tokenizer import basic_clean, canonicalize_text

    return str(canonicalize_text(basic_clean(text)))


class ClassLike(Protocol):
    """Anything that names a class: what data sets and configs hand over."""

    @property
    def label(self) -> str:
        """Identity, exactly as in the data set."""

    @property
    def name(self) -> str:
        """The words used in prompts."""

    @property
    def phrasings(self) -> tuple[str, ...]:
        """All the ways to say it, at least one."""


@dataclass(frozen=True)
class ClassPrompt:
    """One class and the words for it.

    Attributes:
        label: Identity, exactly as in the data set.
        name: The words used in prompts; default: the label with `_` read as a space.
        phrasings: All the ways to say it, at least one; default: the name alone. Their features are averaged.
    """

    label: str
    name: str = ""
    phrasings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", prompt_name(self.label))
        object.__setattr__(self, "phrasings", tuple(self.phrasings) or (self.name,))


ClassPrompts = tuple[ClassPrompt, ...]


def as_class_prompts(classes: Sequence[ClassLike | str]) -> ClassPrompts:
    """Labels or class-like things as `ClassPrompt`, in the same order."""
    return tuple(ClassPrompt(c) if isinstance(c, str) else ClassPrompt(c.label, c.name, c.phrasings) for c in classes)


class _Towers(Protocol):
    """What prompts need of a backbone."""

    @property
    def name(self) -> str: ...
    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def text(self) -> TextTower: ...
    @property
    def trained_token_ids(self) -> frozenset[int] | None: ...


class PromptTable:
    """The frozen part of the prompts of K classes: everything but the context vectors.

    Each phrasing is a prompt of its own (N >= K prompts in all); `pool` averages them back to classes.

    Args:
        backbone: Its tokenizer and text tower are used.
        classes: The K classes, in the order of the logits.
        n_ctx: Number of learned context vectors, 0 for none.
        position: Where the name stands: after the context (`end`), between its halves (`middle`; the first half is
            the smaller one), or before it (`front`).
        lead: Words that stand unlearned between context and name, position `end`.

    Raises:
        PromptLengthError: A prompt does not fit into the tower's positions.
        DuplicatePromptError: Two classes are called by the same tokens.
        PromptError: A class whose words have no token at all.
    Source: CoOp, arXiv 2109.01134, section 3.2 and its released code for the three positions.
    """

    def __init__(
        self,
        backbone: _Towers,
        classes: Sequence[ClassLike | str],
        n_ctx: int,
        position: Position = "end",
        *,
        lead: str = "",
    ) -> None:
        if lead and position != "end":
            raise ConfigError(f"Words before the name ({lead!r}) go with position 'end', not {position!r}.")
        if position not in POSITIONS:
            raise ConfigError(f"class token position is {position!r}; it can be {', '.join(POSITIONS)}.")
        if n_ctx < 0:
            raise ConfigError(f"n_ctx is {n_ctx}; a prompt has 0 or more context vectors.")
        self.classes = as_class_prompts(classes)
        self.labels = tuple(c.label for c in self.classes)
        self.n_ctx, self.position, self.lead = n_ctx, position, lead
        self._text, self._tokenizer = backbone.text, backbone.tokenizer
        self.n_sos = 0 if self._tokenizer.sos_id is None else 1

        self.phrasings = tuple(phrasing for c in self.classes for phrasing in c.phrasings)
        owners = [k for k, c in enumerate(self.classes) for _ in c.phrasings]
        self.class_index = torch.tensor(owners, dtype=torch.int64, device=self._text.device)  # (N,)
        heads, tails = self._tokenize()
        self._refuse_duplicates([tuple(h + t) for h, t in zip(heads, tails, strict=True)], owners)
        self._refuse_long(heads, tails, owners)
        self._lay_out(heads, tails)

    @property
    def K(self) -> int:  # noqa: N802 - the symbol of method.md
        """Number of classes."""
        return len(self.classes)

    @property
    def N(self) -> int:  # noqa: N802
        """Number of prompts: all phrasings of all classes."""
        return len(self.phrasings)

    def assemble(
        self, ctx: torch.Tensor, *, grouped: bool = False, deep_ctx: torch.Tensor | None = None
    ) -> PromptBatch:
        """Put context vectors into the prompts.

        Args:
            ctx: (n_ctx, d_text) shared by all classes, or (K or N, n_ctx, d_text) class-specific, or
                (G, n_ctx, d_text) with `grouped`: G contexts, each for all classes (one per image).
            grouped: The first axis of a 3-d `ctx` counts groups, not classes.
            deep_ctx: (depth - 1, n_ctx, d_text) for the inputs of later blocks (position `end`, shared context).

        Returns:
            A batch of N prompts, or of G x N.

        Raises:
            PromptError: A shape that is none of these.
        """
        per_class = ctx.ndim == 3 and not grouped
        good = ctx.shape[-2:] == (self.n_ctx, self._text.d_text) and ctx.ndim == (3 if grouped or per_class else 2)
        if not good or (per_class and ctx.shape[0] not in (self.K, self.N)):
            raise PromptError(
                f"Context of shape {tuple(ctx.shape)}{' (grouped)' if grouped else ''} does not fit; accepted are "
                f"({self.n_ctx}, {self._text.d_text}), ({self.K}, ...) for each class"
                f"{f' or ({self.N}, ...) for each phrasing' if self.N != self.K else ''}, "
                "and (G, ...) with grouped=True."
            )
        if deep_ctx is not None and (self.position != "end" or per_class):
            raise PromptError("Deep context needs the class name at the end and one context for all classes.")
        if per_class and ctx.shape[0] == self.K and self.K != self.N:
            ctx = ctx[self.class_index]
        half = self.n_ctx // 2
        before = {"end": self.n_ctx, "middle": half, "front": 0}[self.position]  # vectors before the name
        shared = 0 if per_class else before  # of these, how many are the same for all classes
        sos = self._sos.expand(ctx.shape[0], -1, -1) if grouped and shared else self._sos
        prefix = torch.cat([sos, ctx[..., :shared, :]], dim=-2) if shared else sos
        suffix = self._place(ctx[..., shared:, :], before - shared, grouped) if shared < self.n_ctx else self._frozen
        return PromptBatch(prefix, suffix, self.eot_index, deep_ctx, self.n_sos)

    def pool(self, features: torch.Tensor) -> torch.Tensor:
        """Average the phrasings of each class.

        Args:
            features: (..., N, d) unit norm.

        Returns:
            (..., K, d) unit norm.
        """
        if self.N == self.K:
            return features
        shape = (*features.shape[:-2], self.K, features.shape[-1])
        total = features.new_zeros(shape).index_add(-2, self.class_index, features)
        return F.normalize(total, dim=-1)

    def _tokenize(self) -> tuple[list[list[int]], list[list[int]]]:
        """Ids of each phrasing: the name, and what follows it (after the rest of the context, where there is some).

        At the end, name and full stop are read together, as in CoOp; elsewhere context stands between them.
        """
        heads, tails = [], []
        for c in self.classes:
            for phrasing in c.phrasings:
                name, end = prompt_name(phrasing), [self._tokenizer.eot_id]
                if not self._tokenizer.encode(name):
                    raise PromptError(
                        f"Class {c.label!r} has the phrasing {phrasing!r}, of which the tokenizer keeps nothing; give "
                        "it a name in words."
                    )
                together = self.position == "end"
                words = f"{self.lead} {name}" if self.lead else name
                heads.append(self._tokenizer.encode(f"{words}." if together else words))
                tails.append(end if together else [*self._tokenizer.encode("."), *end])
        return heads, tails

    def _refuse_duplicates(self, prompts: list[tuple[int, ...]], owners: list[int]) -> None:
        first: dict[tuple[int, ...], int] = {}
        faults = []
        for n, (prompt, k) in enumerate(zip(prompts, owners, strict=True)):
            other = first.setdefault(prompt, k)
            if other != k:
                words = f"{self.phrasings[n]!r} also names class {self.labels[other]!r}"
                faults.append(Fault(self.labels[k], words))
        if faults:
            listed = "; ".join(f"{f.path!r}: {f.message}" for f in faults[:5])
            more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
            raise DuplicatePromptError(
                f"{len(faults)} class(es) are called by the same words as another, so no text can tell them apart: "
                f"{listed}{more}. Give each class words of its own.",
                faults,
            )

    def _refuse_long(self, heads: list[list[int]], tails: list[list[int]], owners: list[int]) -> None:
        limit = self._text.context_length
        faults = []
        for n, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            length = self.n_sos + self.n_ctx + len(head) + len(tail)
            if length > limit:
                faults.append(
                    Fault(
                        self.labels[owners[n]],
                        f"{self.phrasings[n][:80]!r} needs {length} tokens with {self.n_ctx} context vectors, "
                        f"{length - limit} more than the {limit} there are",
                    )
                )
        if faults:
            raise PromptLengthError(
                f"{len(faults)} prompt(s) are too long for the text tower of {limit} positions; first, class "
                f"{faults[0].path!r}: {faults[0].message}. Shorten the names or use fewer context vectors.",
                faults,
            )

    def _lay_out(self, heads: list[list[int]], tails: list[list[int]]) -> None:
        """Embed the frozen tokens and note where the context goes among them."""
        device = self._text.device
        lengths = [len(h) + len(t) for h, t in zip(heads, tails, strict=True)]
        ids = torch.full((self.N, max(lengths, default=0)), self._tokenizer.pad_id, dtype=torch.int64)
        for n, (head, tail) in enumerate(zip(heads, tails, strict=True)):
            ids[n, : lengths[n]] = torch.tensor(head + tail)
        self.token_ids = ids.to(device)  # (N, S) without SOS and context
        self._frozen = self._text.embed(self.token_ids)  # (N, S, d_text)
        sos = [] if self._tokenizer.sos_id is None else [self._tokenizer.sos_id]
        self._sos = self._text.embed(torch.tensor(sos, dtype=torch.int64, device=device))  # (n_sos, d_text)
        self._name_length = torch.tensor([len(h) for h in heads], dtype=torch.int64, device=device)
        self.eot_index = torch.tensor(lengths, dtype=torch.int64) + (self.n_sos + self.n_ctx - 1)  # (N,) on the CPU

    def _place(self, ctx: torch.Tensor, before: int, grouped: bool) -> torch.Tensor:
        """Suffixes that hold context vectors: (N, m + S, d_text), or (G, N, m + S, d_text) with groups.

        Args:
            ctx: (m, d), (N, m, d) or, grouped, (G, m, d): the vectors that are not in the prefix.
            before: How many of the m stand before the name.
            grouped: See `assemble`.
        """
        m, d = ctx.shape[-2:]
        lead = (*(ctx.shape[:1] if grouped else ()), self.N)
        vectors = (ctx.unsqueeze(-3) if grouped or ctx.ndim == 2 else ctx).expand(*lead, m, d)
        pieces = torch.cat([vectors, self._frozen.expand(*lead, -1, -1)], dim=-2)  # context first, then the words
        if before == m:
            return pieces
        # position j reads: context up to `before`, the name, the rest of the context, what follows the name
        name = self._name_length[:, None]
        j = torch.arange(pieces.shape[-2], device=pieces.device)[None, :]
        source = torch.where(j < before, j, torch.where(j < before + name, j + m - before, j - name))
        source = torch.where(j < m + name, source, j)  # (N, m + S)
        return pieces.gather(-2, source[..., None].expand(*lead, -1, d))


def init_ctx(backbone: _Towers, n_ctx: int, init_text: str | None, generator: torch.Generator) -> torch.Tensor:
    """First values of the context vectors.

    Words give their token embeddings, on the positions nearest to the class name; what is left is normal noise as large
    as this tower's own token embeddings (root mean square; close to CoOp's 0.02 for the published CLIP towers).

    Args:
        backbone: Its tokenizer and token table are used.
        n_ctx: Number of context vectors.
        init_text: For example "a photo of a"; None for noise alone.
        generator: CPU generator of the noise.

    Returns:
        (n_ctx, d_text) float32 on the backbone's device.

    Raises:
        PromptError: `init_text` has more tokens than there are context vectors.
    Source: CoOp, arXiv 2109.01134, section 4.1.
    """
    text = backbone.text
    ctx = torch.randn(n_ctx, text.d_text, generator=generator) * text.embedding_rms(backbone.trained_token_ids)
    ids = backbone.tokenizer.encode(prompt_name(init_text)) if init_text else []
    if len(ids) > n_ctx:
        raise PromptError(
            f"The text {init_text!r} has {len(ids)} tokens, more than the {n_ctx} context vectors it should fill; "
            f"set n_ctx to {len(ids)} or shorten the text."
        )
    if ids:
        words = text.embed(torch.tensor(ids, dtype=torch.int64, device=text.device))
        ctx[n_ctx - len(ids) :] = words.float().cpu()
    return ctx.to(text.device)
