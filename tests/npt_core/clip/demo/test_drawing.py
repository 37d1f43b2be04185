"""Drawing is decided by its seed, and every picture shows what its attributes say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from npt_core.clip.demo import draw, effects, fonts, strokes
from npt_core.clip.demo import vocabulary as v
from npt_core.clip.demo.shapes import shape_mask
from npt_core.errors import ConfigError


def batch(seed: int, n: int = 24, ease: float = 0.0) -> draw.Pictures:
    return draw.draw_batch(np.random.default_rng(seed), n, families=[], ease=ease)


def test_the_seed_decides_everything() -> None:
    one, same, other = batch(1), batch(1), batch(2)
    assert torch.equal(one.pixels, same.pixels)
    assert (one.attributes == same.attributes).all()
    assert not torch.equal(one.pixels, other.pixels)


def test_no_global_generator_is_read_or_moved() -> None:
    before = torch.random.get_rng_state()
    np.random.seed(0)  # noqa: NPY002 (the global state is what is tested)
    first = batch(3)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert torch.equal(first.pixels, batch(3).pixels)
    torch.random.set_rng_state(before)
    batch(4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_pictures_have_range_shape_and_known_attributes() -> None:
    pictures = batch(5, 200)
    assert pictures.pixels.shape == (200, 3, 64, 64)
    assert float(pictures.pixels.min()) >= 0
    assert float(pictures.pixels.max()) <= 1
    assert pictures.images().shape == (200, 64, 64, 3)
    sizes = (len(v.KINDS), len(v.NAMES), *(len(x) for x in (v.COLOURS, v.TEXTURE_NAMES, v.COLOURS)), 2, 4)
    assert (pictures.attributes >= -1).all()
    assert (pictures.attributes < np.array(sizes)).all()
    assert set(pictures.attributes[:, v.KIND]) == {v.DIGIT, v.LETTER, v.SHAPE}


@pytest.mark.parametrize("name", v.SHAPE_NAMES)
def test_every_shape_leaves_ink_and_paper(name: str) -> None:
    mask = shape_mask(name, np.random.default_rng(0))
    assert 0.03 < (mask > 127).mean() < 0.9


def test_shapes_come_in_turn_in_the_wanted_colour_and_texture() -> None:
    drawn = draw.draw_shapes(12, 7, names=["star", "heart"], colours=["red"], textures=["striped"], worn=0.0)
    assert drawn.labels == ["star", "heart"] * 6
    assert set(drawn.attributes[:, v.COLOUR]) == {v.COLOUR_NAMES.index("red")}
    assert set(drawn.attributes[:, v.TEXTURE]) == {v.STRIPED}
    red = (drawn.images[..., 0].astype(int) - drawn.images[..., 1:].max(-1)) > 60
    assert (red.mean((1, 2)) > 0.01).all()


def test_unknown_words_are_named() -> None:
    with pytest.raises(ConfigError, match="'blob' is no shape"):
        draw.draw_shapes(1, 0, names=["blob"])
    with pytest.raises(ConfigError, match="style must be"):
        draw.draw_digits(1, 0, style="carved")
    with pytest.raises(ValueError, match="no shape"):
        shape_mask("blob", np.random.default_rng(0))


@pytest.mark.parametrize("style", v.STYLE_NAMES)
def test_digits_come_in_turn(style: str) -> None:
    images, labels = draw.draw_digits(20, 3, style=style, scanned=0.5, families=[])
    assert labels == list("0123456789") * 2
    assert (images.reshape(20, -1).std(1) > 5).all()


def test_written_digits_stay_in_the_frame() -> None:
    rng = np.random.default_rng(2)
    for digit in range(10):
        for _ in range(20):
            mask = strokes.write_digit(digit, rng)
            assert mask.max() == 255
            assert not mask[[0, -1]].any()
            assert not mask[:, [0, -1]].any()


def test_splines_go_through_their_control_points() -> None:
    points = np.array([(0.0, 0.0), (1.0, 2.0), (3.0, 1.0)])
    line = strokes._spline(3) @ points
    for point in points:
        assert np.abs(line - point).sum(1).min() < 1e-9


def test_the_scanner_counts_ink_in_sixteenths_and_fills_the_frame() -> None:
    masks = torch.zeros(2, 1, 64, 64)
    masks[0, 0, 20:40, 28:36] = 1
    masks[1, 0, 5:15, 5:15] = 1
    grids = effects.scan(masks, torch.Generator().manual_seed(0))
    assert grids.shape == (2, 1, 8, 8)
    assert torch.equal(grids * 16, (grids * 16).round())
    assert (grids[:, 0].amax(2)[:, 1:7] > 0.4).all()  # ink in every row but perhaps the outermost
    assert float(grids[0].mean()) < float(grids[1].mean())  # what was narrow stays narrower


def test_ease_one_is_dark_ink_on_white() -> None:
    pictures = batch(6, 60, ease=1.0)
    glyphs = pictures.attributes[:, v.KIND] != v.SHAPE
    assert (pictures.attributes[glyphs][:, v.BACKGROUND] == v.WHITE).all()
    assert (pictures.attributes[glyphs][:, v.COLOUR] == v.BLACK).all()


def test_families_are_split_by_name_alone() -> None:
    faces = [fonts.FontFace(f"/f/{i}.ttf", f"Family {i % 30}", False) for i in range(60)]
    train, unseen = fonts.split_fonts("train", faces), fonts.split_fonts("unseen", faces)
    names = [{face.family for group in part for face in group} for part in (train, unseen)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 30
    assert len(names[1]) > 0
    assert all(len({face.family for face in group}) == 1 for group in train + unseen)


def test_too_few_fonts_is_an_error_that_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "font_folders", lambda: [tmp_path])
    fonts.find_fonts.cache_clear()
    try:
        with pytest.raises(ConfigError, match="fonts-dejavu"):
            fonts.split_fonts("train")
    finally:
        fonts.find_fonts.cache_clear()
    with pytest.raises(ConfigError, match="'train' or 'unseen'"):
        fonts.split_fonts("both", [])
