"""The picture of the class geometry: of a frame, of a part of one, and where there is none."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from npt_core.collapse.picture import MOST_CLASSES, frame_plane, picture, shown_classes, vertex


def frame(num_classes: int, dim: int, seed: int = 0) -> Tensor:
    """(K, d) a simplex frame, turned somehow, moved off the origin and scaled."""
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
    simplex = torch.eye(num_classes) - 1.0 / num_classes
    padded = torch.nn.functional.pad(simplex, (0, dim - num_classes))
    return 3.0 * padded @ turn + torch.randn(dim, generator=generator)


def of(features: Tensor) -> dict[str, Any]:
    found = picture(features)
    assert found is not None
    return found


@pytest.mark.parametrize("num_classes", [3, 4, 10, 24])
def test_a_frame_is_a_regular_polygon(num_classes: int) -> None:
    found = of(frame(num_classes, 48))
    wanted = [list(vertex(i, num_classes)) for i in range(num_classes)]
    torch.testing.assert_close(torch.tensor(found["points"]), torch.tensor(wanted), atol=2e-3, rtol=0)
    cosines = torch.tensor(found["cosines"])
    off = cosines[~torch.eye(num_classes, dtype=torch.bool)]
    torch.testing.assert_close(off, torch.full_like(off, found["target"]), atol=6e-3, rtol=0)
    assert found["target"] == pytest.approx(-1 / (num_classes - 1))


def test_a_part_of_a_large_frame_is_a_polygon_too() -> None:
    found = of(frame(100, 128))
    assert (found["of"], len(found["classes"])) == (100, MOST_CLASSES)
    assert found["classes"] == sorted(set(found["classes"]))
    wanted = torch.tensor([vertex(i, MOST_CLASSES) for i in range(MOST_CLASSES)])
    torch.testing.assert_close(torch.tensor(found["points"]), wanted, atol=2e-3, rtol=0)
    assert found["cosines"][0][1] == pytest.approx(-1 / 99, abs=0.006)


def test_it_moves_towards_the_frame_as_the_directions_do() -> None:
    generator = torch.Generator().manual_seed(3)
    start = torch.nn.functional.pad(torch.randn(8, 2, generator=generator), (0, 30))  # all in one plane
    end = frame(8, 32)
    wanted = torch.tensor([vertex(i, 8) for i in range(8)], dtype=torch.float64)
    away = [float((frame_plane(start + share * (end - start)) - wanted).norm()) for share in (0.0, 0.5, 0.8, 1.0)]
    assert away == sorted(away, reverse=True)
    assert away[-1] < 1e-4 < 0.1 < away[0]


def test_a_turn_of_all_features_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(6, 20, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(20, 20, generator=generator))
    torch.testing.assert_close(frame_plane(features @ turn), frame_plane(features), atol=1e-5, rtol=0)


def test_two_alike_classes_lie_together() -> None:
    features = frame(5, 16)
    features[1] = features[0]
    found = of(features)
    assert found["cosines"][0][1] == 1.0
    first, second = found["points"][0], found["points"][1]
    apart = math.dist(first, second)
    assert apart < 0.6 * math.dist(vertex(0, 5), vertex(1, 5))


def test_text_of_each_image_is_shown_by_its_mean() -> None:
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(9, 4, 16, generator=generator)
    many = frame(4, 16) + noise - noise.mean(dim=0)
    torch.testing.assert_close(
        torch.tensor(of(many)["points"]), torch.tensor(of(frame(4, 16))["points"]), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize(
    "features", [None, torch.ones(2, 8), torch.full((4, 8), math.nan)], ids=["no text", "two classes", "not finite"]
)
def test_where_there_is_nothing_to_draw(features: Tensor | None) -> None:
    assert picture(features) is None


def test_coinciding_classes_are_drawn_all_the_same() -> None:
    found = of(torch.ones(4, 8))
    assert all(abs(value) < 1e-3 for point in found["points"] for value in point)


@pytest.mark.parametrize("num_classes", [3, 24, 25, 1000])
def test_it_stays_small(num_classes: int) -> None:
    generator = torch.Generator().manual_seed(1)
    found = of(torch.randn(num_classes, 64, generator=generator))
    assert found["classes"] == shown_classes(num_classes)
    assert max(found["classes"]) < num_classes
    text = json.dumps(found, separators=(",", ":"), allow_nan=False)
    assert len(text) < 6_000
    assert "-0.0," not in text
