"""Encoding: each view once, by content, in small memory, bad images named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from npt_core.data import Dataset
from npt_core.errors import Cancelled, OutOfMemoryError
from npt_core.tuning.features import (
    MemoryFeatureCache,
    PixelSource,
    decoded_ahead,
    encode_dataset,
    encode_pixels,
    feature_key,
    load_picture,
)
from tests.support.pictures import write_folder
from tests.support.service import wait_for
from tests.support.tiny_clip import tiny_backbone


def everything(dataset: Dataset) -> range:
    return range(len(dataset.samples))


def test_view_zero_is_what_prediction_sees(dataset: Dataset, backbone: Any) -> None:
    found = encode_dataset(backbone, dataset, everything(dataset), views=3)
    assert found.features.shape == (24, 3, backbone.d)
    assert torch.allclose(found.features.norm(dim=-1), torch.ones(24, 3), atol=1e-5)
    served = backbone.encode_images(torch.stack([load_picture(backbone, dataset.read(s)) for s in dataset.samples]))
    assert torch.allclose(found.features[:, 0], served, atol=1e-5)
    assert not torch.allclose(found.features[:, 1], served, atol=1e-3)
    assert [dataset.labels[k] for k in found.labels.tolist()] == [s.label for s in dataset.samples]


def test_nothing_is_encoded_twice(dataset: Dataset, backbone: Any) -> None:
    cache = MemoryFeatureCache()
    first = encode_dataset(backbone, dataset, everything(dataset), views=2, cache=cache)
    assert (first.encoded, first.cached) == (48, 0)
    second = encode_dataset(backbone, dataset, everything(dataset), views=2, cache=cache)
    assert (second.encoded, second.cached) == (0, 48)
    assert torch.equal(first.features, second.features)
    third = encode_dataset(backbone, dataset, everything(dataset), views=3, cache=cache)
    assert (third.encoded, third.cached) == (24, 48)


def test_copies_are_encoded_once(tmp_path: Path, backbone: Any) -> None:
    write_folder(tmp_path, {"red": 3, "blue": 3})
    shutil.copy(tmp_path / "red/000.png", tmp_path / "red/copy.png")
    dataset = Dataset.from_folder(tmp_path)
    found = encode_dataset(backbone, dataset, everything(dataset))
    assert found.encoded == 6
    assert len(found.features) == 7


def test_the_key_knows_everything_that_changes_a_feature(backbone: Any) -> None:
    other = tiny_backbone("clip", seed=1)
    reduced = tiny_backbone("clip", precision="bf16")
    keys = {
        feature_key(backbone, "a", 0),
        feature_key(backbone, "b", 0),
        feature_key(backbone, "a", 1),
        feature_key(other, "a", 0),
        feature_key(reduced, "a", 0),
        feature_key(backbone, "a", 0, "tokens"),
    }
    assert len(keys) == 6
    assert reduced.fingerprint == backbone.fingerprint


def test_unreadable_images_are_named_and_left_out(dataset: Dataset, backbone: Any, tmp_path: Path) -> None:
    target = tmp_path / "pictures/green/003.png"
    target.write_bytes(target.read_bytes()[:200])
    found = encode_dataset(backbone, dataset, everything(dataset), views=2)
    assert [fault.path for fault in found.bad] == ["green/003.png"]
    assert len(found.indices) == len(found.features) == len(found.labels) == 23
    assert all(dataset.samples[i].path != "green/003.png" for i in found.indices)


def test_control_stops_it_within_a_batch(dataset: Dataset, backbone: Any) -> None:
    class Stop:
        looks = 0

        def check(self) -> None:
            self.looks += 1
            if self.looks == 4:
                raise Cancelled("stop")

    stop = Stop()
    with pytest.raises(Cancelled):
        encode_dataset(backbone, dataset, everything(dataset), control=stop)
    assert stop.looks == 4


def test_progress_adds_up(dataset: Dataset, backbone: Any) -> None:
    cache, told = MemoryFeatureCache(), []
    encode_dataset(backbone, dataset, range(5), cache=cache)
    encode_dataset(
        backbone, dataset, everything(dataset), cache=cache, progress=lambda new, old: told.append((new, old))
    )
    assert sum(new for new, _ in told) == 19
    assert sum(old for _, old in told) == 5


def test_tokens_are_cached_beside_the_pooled_features(dataset: Dataset, backbone: Any) -> None:
    cache = MemoryFeatureCache()
    first = encode_dataset(backbone, dataset, range(4), cache=cache, with_tokens=True)
    assert first.tokens is not None
    assert first.tokens.shape[:2] == (4, 1)
    again = encode_dataset(backbone, dataset, range(4), cache=cache, with_tokens=True)
    assert again.encoded == 0
    assert torch.equal(first.tokens, again.tokens)


def test_memory_running_out_halves_the_batch(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randn(7, 3, *backbone.image_size)
    expected = backbone.encode_images(pixels)
    encode = backbone.encode_images

    def small(batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(batch)

    monkeypatch.setattr(backbone, "encode_images", small)
    assert torch.allclose(encode_pixels(backbone, pixels), expected, atol=1e-5)

    def never(batch: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(backbone, "encode_images", never)
    with pytest.raises(OutOfMemoryError, match="single image"):
        encode_pixels(backbone, pixels)


def test_pixel_source_keeps_what_fits_and_decodes_the_rest_again(dataset: Dataset, backbone: Any) -> None:
    one = 3 * backbone.image_size[0] * backbone.image_size[1] * 4
    source = PixelSource(backbone, dataset, [3, 5, 7], max_bytes=2 * one)
    first = source.batch([0, 1, 2], [0, 0, 1])
    assert first.shape == (3, 3, *backbone.image_size)
    assert len(source._kept) == 2
    assert torch.equal(source.batch([2, 0, 1], [1, 0, 0]), first[[2, 0, 1]])
    assert torch.equal(first[0], load_picture(backbone, dataset.read(dataset.samples[3])))
    source.close()


def test_decoding_ahead_keeps_the_order_and_its_window() -> None:
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    with ThreadPoolExecutor(2) as pool:
        for seen, (job, result) in enumerate(decoded_ahead(pool, jobs(), lambda n: n * n, window=20), 1):
            assert (job, result) == (seen - 1, (seen - 1) ** 2)
            assert taken <= seen + 20
    assert seen == 100


def test_an_error_comes_at_its_own_job_and_nothing_is_decoded_after_the_end() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 11:
            raise ValueError("eleven")
        return number

    with ThreadPoolExecutor(1) as pool:
        ahead = decoded_ahead(pool, range(1000), work, window=40)
        assert [next(ahead)[0] for _ in range(11)] == list(range(11))
        with pytest.raises(ValueError, match="eleven"):
            next(ahead)
    assert not {12, 13, 14, 15} & set(begun)  # of the few that the thread had taken with it
    assert len(begun) < 100


def test_who_stops_looking_stops_the_decoding() -> None:
    begun: list[int] = []
    go_on = Event()

    def work(number: int) -> int:
        begun.append(number)
        assert number < 8 or go_on.wait(20)
        return number

    with ThreadPoolExecutor(1) as pool:
        ahead = decoded_ahead(pool, range(1000), work, window=40)
        assert next(ahead) == (0, 0)
        wait_for("the thread to be in the middle of the next few", lambda: begun[-1] == 8)
        ahead.close()
        go_on.set()
    assert begun == list(range(9))
