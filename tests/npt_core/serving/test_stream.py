"""Many pictures in a row: order, errors in their place, several classifiers, bounded memory, stopping, short memory."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from npt_core.classifier import Classifier, Scores, zero_shot
from npt_core.clip import ClassPrompt
from npt_core.errors import Cancelled, ConfigError, ImageError, OutOfMemoryError
from npt_core.methods import get_method
from npt_core.serving.stream import Ask, Part, Picture, classify_stream
from npt_core.tuning.features import load_picture
from tests.support.pictures import COLOURS, picture
from tests.support.tiny_clip import tiny_backbone

LABELS = ("red", "green", "blue")


def png(seed: int, size: tuple[int, int] = (32, 32)) -> bytes:
    out = io.BytesIO()
    picture(list(COLOURS.values())[seed % 4], seed).resize(size).save(out, "PNG")
    return out.getvalue()


def giving(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def pictures(n: int) -> list[Picture]:
    return [(f"{number}.png", giving(png(number))) for number in range(n)]


def made(backbone: Any, method: str = "coop", labels: tuple[str, ...] = LABELS, **config: Any) -> Classifier:
    kind = get_method(method)
    classes = [ClassPrompt(label) for label in labels]
    return Classifier(
        kind(kind.Config.from_dict(config), backbone, classes, generator=torch.Generator().manual_seed(0)), {}
    )


def all_scores(parts: list[Part], place: int = 0) -> torch.Tensor:
    return torch.cat([part.scores[place].probabilities for part in parts if part.scores])


def test_answers_come_in_order_and_are_those_of_one_picture_alone(backbone: Any) -> None:
    classifier = made(backbone)
    parts = list(classify_stream(pictures(11), [Ask(classifier)], batch=4))
    assert [len(part.names) for part in parts] == [4, 4, 3]
    assert [name for part in parts for name in part.names] == [f"{n}.png" for n in range(11)]
    for n, row in enumerate(all_scores(parts)):
        pixels = load_picture(backbone, png(n))[None]
        alone = classifier.predict(backbone.encode_images(pixels))
        torch.testing.assert_close(row, alone.probabilities[0], atol=1e-5, rtol=0)


def test_who_begins_again_at_a_batch_gets_the_very_same_numbers(backbone: Any) -> None:
    stream = pictures(13)
    stream[1] = ("1.png", giving(b"no picture"))
    asks = [Ask(made(backbone)), Ask(zero_shot(backbone, LABELS))]
    whole = list(classify_stream(stream, asks, batch=4))
    again = list(classify_stream(stream[4:], asks, batch=4))
    for place in range(2):
        assert torch.equal(all_scores(whole[1:], place), all_scores(again, place))


def test_what_cannot_be_read_keeps_its_place(backbone: Any) -> None:
    def broken() -> bytes:
        raise ImageError("the file has gone")

    stream = [("a", giving(png(1))), ("b", giving(b"text")), ("c", broken), ("d", giving(png(1)))]
    (part,) = classify_stream(stream, [Ask(made(backbone))])
    assert part.readable == ("a", "d")
    assert sorted(part.errors) == [1, 2]
    assert "not an accepted image" in str(part.errors[1])
    assert str(part.errors[2]) == "the file has gone"
    assert torch.equal(part.scores[0].probabilities[0], part.scores[0].probabilities[1])


def test_a_part_without_a_readable_picture_has_no_scores(backbone: Any) -> None:
    (part,) = classify_stream([("a", giving(b""))], [Ask(made(backbone))])
    assert (part.scores, part.readable, list(part.errors)) == ((), (), [0])
    assert list(classify_stream([], [Ask(made(backbone))])) == []


def test_several_classifiers_share_the_encoding(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = backbone.encode_images
    monkeypatch.setattr(backbone, "encode_images", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    asks = [Ask(made(backbone)), Ask(made(backbone, n_ctx=2), ("red", "dog")), Ask(zero_shot(backbone, LABELS))]
    (part,) = classify_stream(pictures(3), asks)
    assert seen == [3]
    assert [scores.labels for scores in part.scores] == [LABELS, ("red", "dog"), LABELS]


def test_each_classifier_sees_what_it_needs(backbone: Any) -> None:
    """On pixels, on tokens, on another backbone, and with another way of fitting pictures into the square."""
    other = tiny_backbone("clip", seed=5, name="other")
    asks = [
        Ask(made(backbone, "vpt")),
        Ask(made(other)),
        Ask(made(backbone.with_resize("pad"))),
        Ask(made(backbone, "dpt")),
        Ask(made(backbone)),
    ]
    wide = [(str(n), giving(png(n, (64, 24)))) for n in range(3)]
    (part,) = classify_stream(wide, asks)
    for ask, scores in zip(asks, part.scores, strict=True):
        one = ask.classifier
        pixels = torch.stack([load_picture(one.backbone, read()) for _, read in wide])
        expected = one.predict(pixels if one.needs_pixels else one.backbone.encode_images(pixels))
        torch.testing.assert_close(scores.probabilities, expected.probabilities, atol=1e-5, rtol=0)
    assert not torch.allclose(part.scores[2].probabilities, part.scores[4].probabilities, atol=1e-6)


def test_little_is_read_ahead(backbone: Any) -> None:
    read: list[int] = []

    def stream() -> Iterator[Picture]:
        for number in range(1000):
            read.append(number)
            yield str(number), giving(png(0))

    parts = classify_stream(stream(), [Ask(made(backbone))], batch=4, decode_threads=2)
    for number in range(1, 4):
        next(parts)
        assert 4 * (number + 1) <= len(read) <= 4 * (number + 2)
    parts.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "tower"))]


def test_it_stops_when_it_is_told_to(backbone: Any) -> None:
    class Stop:
        left = 9

        def check(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise Cancelled("enough")

    parts = classify_stream(pictures(50), [Ask(made(backbone))], batch=4, control=Stop())
    assert len(next(parts).names) == 4
    with pytest.raises(Cancelled):
        next(parts)


class TestShortMemory:
    @pytest.fixture
    def holds(self, backbone: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
        def limit(most: int) -> list[int]:
            tried: list[int] = []
            encode = backbone.encode_images

            def short(pixels: torch.Tensor) -> torch.Tensor:
                tried.append(len(pixels))
                if len(pixels) > most:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                found: torch.Tensor = encode(pixels)
                return found

            monkeypatch.setattr(backbone, "encode_images", short)
            return tried

        return limit

    def test_halves_what_goes_through_the_tower_and_remembers(
        self, backbone: Any, holds: Callable[[int], list[int]]
    ) -> None:
        classifier = made(backbone)
        expected = all_scores(list(classify_stream(pictures(16), [Ask(classifier)], batch=8)))
        tried = holds(3)
        parts = list(classify_stream(pictures(16), [Ask(classifier)], batch=8))
        assert [len(part.names) for part in parts] == [8, 8]
        torch.testing.assert_close(all_scores(parts), expected, atol=1e-5, rtol=0)
        assert tried == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]

    def test_gives_up_at_one_picture(self, backbone: Any, holds: Callable[[int], list[int]]) -> None:
        holds(0)
        with pytest.raises(OutOfMemoryError, match="single image"):
            list(classify_stream(pictures(3), [Ask(made(backbone))]))

    def test_other_failures_are_not_taken_for_it(self, backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def bug(pixels: torch.Tensor) -> Scores:
            raise RuntimeError("a bug")

        monkeypatch.setattr(backbone, "encode_images", bug)
        with pytest.raises(RuntimeError, match="a bug"):
            list(classify_stream(pictures(3), [Ask(made(backbone))]))


def test_what_cannot_work_is_refused(backbone: Any) -> None:
    with pytest.raises(ConfigError, match="at least one classifier"):
        next(classify_stream(pictures(1), []))
    for sizes in ({"batch": 0}, {"decode_threads": 0}):
        with pytest.raises(ConfigError, match="at least 1"):
            next(classify_stream(pictures(1), [Ask(made(backbone))], **sizes))  # type: ignore[arg-type]
