"""Tiny replicas of the 11 layouts are written as CoOp's DATASETS.md describes them, and read.

Folders, file names and templates are spelled out here once more, not taken from the loaders: they are facts of CoOp.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.paper_sets import NAMES, PaperSet, load
from npt_core.errors import ConfigError, DatasetError

SPLIT_SETS = {
    # name: folder, folder of pictures, split file, two pictures of the first class and of the second, their names
    "caltech101": (
        "caltech-101",
        "101_ObjectCategories",
        "split_zhou_Caltech101.json",
        ("airplanes/image_{}.jpg", "ceiling_fan/image_{}.jpg"),
        ("airplane", "ceiling_fan"),
    ),
    "oxford_pets": (
        "oxford_pets",
        "images",
        "split_zhou_OxfordPets.json",
        ("Abyssinian_{}.jpg", "american_bulldog_{}.jpg"),
        ("abyssinian", "american_bulldog"),
    ),
    "stanford_cars": (
        "stanford_cars",
        "",
        "split_zhou_StanfordCars.json",
        ("cars_train/0000{}.jpg", "cars_test/0000{}.jpg"),
        ("2000 AM General Hummer SUV", "2012 Ram C/V Cargo Van Minivan"),
    ),
    "oxford_flowers": (
        "oxford_flowers",
        "jpg",
        "split_zhou_OxfordFlowers.json",
        ("image_0000{}.jpg", "image_0100{}.jpg"),
        ("pink primrose", "colt's foot"),
    ),
    "food101": (
        "food-101",
        "images",
        "split_zhou_Food101.json",
        ("apple_pie/10{}.jpg", "baby_back_ribs/10{}.jpg"),
        ("apple_pie", "baby_back_ribs"),
    ),
    "sun397": (
        "sun397",
        "SUN397",
        "split_zhou_SUN397.json",
        ("a/abbey/sun_a{}.jpg", "a/apartment_building/outdoor/sun_b{}.jpg"),
        ("abbey", "outdoor apartment_building"),
    ),
    "dtd": (
        "dtd",
        "images",
        "split_zhou_DescribableTextures.json",
        ("banded/banded_000{}.jpg", "polka-dotted/polka-dotted_000{}.jpg"),
        ("banded", "polka-dotted"),
    ),
    "eurosat": (
        "eurosat",
        "2750",
        "split_zhou_EuroSAT.json",
        ("AnnualCrop/AnnualCrop_{}.jpg", "Forest/Forest_{}.jpg"),
        ("Annual Crop Land", "Forest"),
    ),
    "ucf101": (
        "ucf101",
        "UCF-101-midframes",
        "split_zhou_UCF101.json",
        ("Apply_Eye_Makeup/v_ApplyEyeMakeup_g0{}_c01.jpg", "Yo_Yo/v_YoYo_g0{}_c01.jpg"),
        ("Apply_Eye_Makeup", "Yo_Yo"),
    ),
}
PROMPTS = {
    "imagenet": ("ImageNet", "a photo of a tench."),
    "caltech101": ("Caltech101", "a photo of a airplane."),
    "oxford_pets": ("OxfordPets", "a photo of a abyssinian, a type of pet."),
    "stanford_cars": ("StanfordCars", "a photo of a 2000 AM General Hummer SUV."),
    "oxford_flowers": ("Flowers102", "a photo of a pink primrose, a type of flower."),
    "food101": ("Food101", "a photo of apple pie, a type of food."),
    "fgvc_aircraft": ("FGVCAircraft", "a photo of a 707-320, a type of aircraft."),
    "sun397": ("SUN397", "a photo of a abbey."),
    "dtd": ("DTD", "banded texture."),
    "eurosat": ("EuroSAT", "a centered satellite photo of Annual Crop Land."),
    "ucf101": ("UCF101", "a photo of a person doing Apply Eye Makeup."),
}
ENTRY_FAULTS = [
    (["a/1.jpg", 0], "no [path, label, class name]"),
    ({"path": "a/1.jpg"}, "no [path, label, class name]"),
    (["/etc/passwd", 0, "cat"], "absolute"),
    (["C:/pictures/1.jpg", 0, "cat"], "absolute"),
    (["a/../../1.jpg", 0, "cat"], "'..'"),
    (["a\\1.jpg", 0, "cat"], "not separated by '/'"),
    (["", 0, "cat"], "no printable text"),
    (["a/\0.jpg", 0, "cat"], "no printable text"),
    ([3, 0, "cat"], "no printable text"),
    (["a/1.jpg", "0", "cat"], "no whole number"),
    (["a/1.jpg", -1, "cat"], "no whole number"),
    (["a/1.jpg", True, "cat"], "no whole number"),
    (["a/1.jpg", 0, " _ "], "no printable text"),
    (["a/1.jpg", 0, None], "no printable text"),
]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (200, 30, 30)).save(path)


def split_of(name: str) -> dict[str, list[list[object]]]:
    """Two classes, and one picture of each in every part."""
    _, _, _, files, classnames = SPLIT_SETS[name]
    return {
        part: [[files[label].format(number), label, classnames[label]] for label in (0, 1)]
        for number, part in enumerate(("train", "val", "test"), 1)
    }


def write_split_set(name: str, root: Path) -> None:
    folder, images, split_file, *_ = SPLIT_SETS[name]
    split = split_of(name)
    for entries in split.values():
        for path, _, _ in entries:
            picture(root / folder / images / str(path))
    (root / folder / split_file).write_text(json.dumps(split))


def write_imagenet(root: Path) -> None:
    folder = root / "imagenet"
    for wnid in ("n01443537", "n01440764"):
        for part, files in (("train", ("10026", "11155")), ("val", ("00000293",))):
            for file in files:
                picture(folder / "images" / part / wnid / f"{wnid}_{file}.JPEG")
    (folder / "classnames.txt").write_text("n01440764 tench\nn01443537 kite (bird of prey)\n")


def write_aircraft(root: Path) -> None:
    folder = root / "fgvc_aircraft"
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("707-320\nF/A-18\n")
    for number, part in enumerate(("train", "val", "test"), 1):
        lines = [f"{number}025794 707-320", f"{number}340192 F/A-18"]
        for line in lines:
            picture(folder / "images" / f"{line.split()[0]}.jpg")
        (folder / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")


def write(name: str, root: Path) -> None:
    special = {"imagenet": write_imagenet, "fgvc_aircraft": write_aircraft}
    special[name](root) if name in special else write_split_set(name, root)


def refused(name: str, root: Path) -> str:
    """What the loader says against a data set; always where to read how it should be."""
    with pytest.raises(DatasetError) as caught:
        load(name, root)
    assert "DATASETS.md" in caught.value.message
    return caught.value.message


# --- the 11 layouts --------------------------------------------------------------------------------------------------


def test_the_papers_table_has_eleven_sets():
    assert len(NAMES) == 11
    assert set(NAMES) == set(PROMPTS) == {*SPLIT_SETS, "imagenet", "fgvc_aircraft"}


@pytest.mark.parametrize("name", NAMES)
def test_every_layout_loads(name, tmp_path):
    write(name, tmp_path)
    data = load(name, tmp_path)
    assert isinstance(data, PaperSet)
    title, prompt = PROMPTS[name]
    assert (data.name, data.title) == (name, title)
    assert data.template.format(data.classnames[0]) == prompt
    assert len(data.classnames) == 2
    for part in (data.train, data.val, data.test):
        assert {item.label for item in part} == ({0, 1} if part else set())
        for item in part:
            assert item.classname == data.classnames[item.label]
            with Image.open(item.path) as image:
                assert image.size == (8, 8)
    assert data.train
    assert data.test
    assert bool(data.val) == (name != "imagenet")
    parts = [{item.path for item in part} for part in (data.train, data.val, data.test)]
    assert sum(len(part) for part in parts) == len(set.union(*parts))


@pytest.mark.parametrize("name", SPLIT_SETS)
def test_the_split_file_decides_which_picture_is_where(name, tmp_path):
    write(name, tmp_path)
    data = load(name, tmp_path)
    folder, images, _, files, classnames = SPLIT_SETS[name]
    assert data.classnames == tuple(name.replace("_", " ") for name in classnames)
    for number, part in enumerate((data.train, data.val, data.test), 1):
        assert [item.path for item in part] == [tmp_path / folder / images / file.format(number) for file in files]


def test_folder_names_in_a_eurosat_split_become_coops_words(tmp_path):
    write("eurosat", tmp_path)
    split = tmp_path / "eurosat" / "split_zhou_EuroSAT.json"
    split.write_text(split.read_text().replace('"Annual Crop Land"', '"AnnualCrop"').replace('"Forest"', '"SeaLake"'))
    assert load("eurosat", tmp_path).classnames == ("Annual Crop Land", "Sea or Lake")


def test_imagenet_labels_are_sorted_folders_and_hidden_or_other_files_are_passed_over(tmp_path):
    write("imagenet", tmp_path)
    fish = tmp_path / "imagenet/images/train/n01440764"
    (fish / "._n01440764_10026.JPEG").write_text("")
    (fish / "Thumbs.db").write_text("")
    data = load("imagenet", tmp_path)
    assert data.classnames == ("tench", "kite (bird of prey)")
    assert [(item.label, item.path.name) for item in data.train] == [
        (0, "n01440764_10026.JPEG"),
        (0, "n01440764_11155.JPEG"),
        (1, "n01443537_10026.JPEG"),
        (1, "n01443537_11155.JPEG"),
    ]
    assert [item.path.name for item in data.test] == ["n01440764_00000293.JPEG", "n01443537_00000293.JPEG"]


def test_the_two_names_that_clip_gives_twice_become_four(tmp_path):
    names = {
        "n03773504": "missile",
        "n04008634": "missile",
        "n04355933": "sunglasses",
        "n04356056": "sunglasses",
    }
    for wnid in names:
        for part in ("train", "val"):
            picture(tmp_path / "imagenet/images" / part / wnid / "1.JPEG")
    listing = tmp_path / "imagenet/classnames.txt"
    listing.write_text("".join(f"{wnid} {name}\n" for wnid, name in names.items()))
    assert load("imagenet", tmp_path).classnames == ("missile", "projectile", "sunglass", "sunglasses")
    listing.write_text(listing.read_text().replace("n04008634 missile", "n04008634 rocket"))
    assert load("imagenet", tmp_path).classnames == ("missile", "rocket", "sunglass", "sunglasses")


def test_aircraft_variants_keep_their_slash_and_their_order(tmp_path):
    write("fgvc_aircraft", tmp_path)
    data = load("fgvc_aircraft", tmp_path)
    assert data.classnames == ("707-320", "F/A-18")
    assert [(item.path.name, item.label) for item in data.val] == [("2025794.jpg", 0), ("2340192.jpg", 1)]


# --- what is refused -------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"'cifar10'.*imagenet.*ucf101"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_root_or_set_that_is_not_there_is_named(name, tmp_path):
    assert str(tmp_path / "nowhere") in refused(name, tmp_path / "nowhere")
    folder = {**{key: value[0] for key, value in SPLIT_SETS.items()}, "imagenet": "imagenet"}.get(name, "fgvc_aircraft")
    said = refused(name, tmp_path)
    assert f"lacks the folder {tmp_path / folder}" in said
    assert "expected in" in said


@pytest.mark.parametrize("name", NAMES)
def test_each_part_of_a_layout_is_missed_by_its_path(name, tmp_path):
    write(name, tmp_path)
    (folder,) = tmp_path.iterdir()
    below = (
        sorted(folder.iterdir()) if name != "imagenet" else [folder / "classnames.txt", *(folder / "images").iterdir()]
    )
    assert len(below) >= 2
    for path in below:
        aside = tmp_path / "aside"
        path.rename(aside)
        said = refused(name, tmp_path)
        assert f"lacks the {'folder' if aside.is_dir() else 'file'} {path};" in said
        aside.rename(path)
    load(name, tmp_path)


@pytest.mark.parametrize("name", [*SPLIT_SETS, "fgvc_aircraft"])
def test_missing_pictures_are_counted_and_the_first_are_named(name, tmp_path):
    write(name, tmp_path)
    data = load(name, tmp_path)
    for item in data.test:
        item.path.unlink()
    said = refused(name, tmp_path)
    assert "2 of 6 pictures are not in" in said
    assert data.test[0].path.name in said


def test_many_missing_pictures_make_a_short_message_with_all_faults(tmp_path):
    write("dtd", tmp_path)
    split = split_of("dtd")
    split["train"] += [[f"banded/gone_{n}.jpg", 0, "banded"] for n in range(40)]
    split["train"] += [[f"banded/{'x' * 400}.jpg", 0, "banded"]]
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    with pytest.raises(DatasetError, match="41 of 47 pictures") as caught:
        load("dtd", tmp_path)
    assert len(caught.value.faults) == 41
    assert "gone_4.jpg" in caught.value.message
    assert "gone_5.jpg" not in caught.value.message


def test_a_folder_is_no_picture(tmp_path):
    write("dtd", tmp_path)
    path = load("dtd", tmp_path).val[0].path
    path.unlink()
    path.mkdir()
    assert "1 of 6 pictures" in refused("dtd", tmp_path)


@pytest.mark.parametrize(("entry", "said"), ENTRY_FAULTS)
def test_a_bad_entry_is_named_by_part_and_number(entry, said, tmp_path):
    write("dtd", tmp_path)
    split = split_of("dtd")
    split["val"].insert(1, entry)
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text(json.dumps(split))
    message = refused("dtd", tmp_path)
    assert "1 fault(s): val[1]: " in message
    assert said in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no JSON"),
        ("{'train': []}", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1, 2]", "no list of entries under train, val, test"),
        ('{"train": [], "val": {}, "test": []}', "no list of entries under val"),
        ('{"train": [], "val": [], "test": []}', "classes: 0; at least 2"),
        ('{"train": [["1.jpg", ' + "9" * 4000 + ', "cat"]], "val": [], "test": []}', "they count from 0"),
    ],
)
def test_a_split_file_of_another_form_is_refused(text, said, tmp_path):
    write("dtd", tmp_path)
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text(text)
    message = refused("dtd", tmp_path)
    assert said in message
    assert len(message) < 1500


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("n01440764 tench\nn01443537\n", "line 2: 'n01443537' is no WordNet id and class name"),
        ("n01440764 tench\n../up goldfish\n", "line 2: '../up goldfish' is no WordNet id"),
        ("n01440764 tench\n\nn01440764 carp\n", "line 3: n01440764 was there before"),
        ("n01440764 tench\nn01443537 tench\n", "'tench': names label 0 and label 1"),
        ("n01440764 tench\n", "classes: 1; at least 2"),
        ("n01440764 tench\nn01443537 goldfish\nn01484850 shark\n", "n01484850: no folder of that class"),
        ("n01440764 tench\nn01484850 shark\n", "'n01443537': a folder that classnames.txt does not name"),
    ],
)
def test_imagenet_classnames_that_do_not_fit_are_refused(text, said, tmp_path):
    write("imagenet", tmp_path)
    (tmp_path / "imagenet/classnames.txt").write_text(text)
    assert said in refused("imagenet", tmp_path)


def test_a_text_file_that_is_no_utf8_is_refused(tmp_path):
    write("imagenet", tmp_path)
    (tmp_path / "imagenet/classnames.txt").write_bytes(b"n01440764 \xff\n")
    assert "cannot be read as text in UTF-8" in refused("imagenet", tmp_path)


def test_imagenet_validation_pictures_that_lie_flat_get_told_so(tmp_path):
    write("imagenet", tmp_path)
    val = tmp_path / "imagenet/images/val"
    shutil.rmtree(val)
    picture(val / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DatasetError, match="sort it into such folders first"):
        load("imagenet", tmp_path)


def test_an_imagenet_class_without_pictures_is_named(tmp_path):
    write("imagenet", tmp_path)
    (only,) = (tmp_path / "imagenet/images/val/n01443537").iterdir()
    only.rename(only.with_suffix(".txt"))
    assert "n01443537: no picture" in refused("imagenet", tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("images_variant_val.txt", "2025794 747-100\n", "line 1: variants.txt has no variant '747-100'"),
        ("images_variant_val.txt", "../../secret 707-320\n", "line 1: '../../secret 707-320' is no picture's number"),
        ("images_variant_val.txt", "2025794\n", "is no picture's number and variant"),
        ("images_variant_test.txt", "1025794 707-320\n3340192 F/A-18\n", "'1025794.jpg': is in train and in test"),
        ("images_variant_test.txt", "3025794 707-320\n", "test: no picture of 1 of 2 classes ('F/A-18')"),
        ("variants.txt", "707-320\n707-320\nF/A-18\n", "'707-320': names label 0 and label 1"),
    ],
)
def test_aircraft_lists_that_do_not_fit_are_refused(file, text, said, tmp_path):
    write("fgvc_aircraft", tmp_path)
    (tmp_path / "fgvc_aircraft" / file).write_text(text)
    assert said in refused("fgvc_aircraft", tmp_path)
