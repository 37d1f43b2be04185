"""Every row of the table of archive threats, as an archive made here."""

from __future__ import annotations

import bz2
import stat
import struct
import threading
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.data.archive import DamagedEntryError, Limits, SafeArchive
from npt_core.errors import ArchiveError, ArchiveTooLargeError
from tests.support.outcomes import outcome
from tests.support.zips import RawEntry, classes, picture, raw_zip, write_zip

GOOD = RawEntry(b"cat/0.png", picture(1))
WHOLE = raw_zip([GOOD, RawEntry(b"dog/0.png", picture(2)), RawEntry(b"e/", method=0)], zip64=True)


def refused(path: Path, limits: Limits | None = None) -> ArchiveError:
    with pytest.raises(ArchiveError) as caught:
        SafeArchive.open(path, limits)
    return caught.value


def test_an_honest_archive_lists_its_files_and_gives_their_bytes(make_zip):
    files = classes("cat", "dog")
    with SafeArchive.open(make_zip(files)) as archive:
        assert {entry.path: archive.read(entry) for entry in archive.entries} == files
        assert [entry.size for entry in archive.entries] == [len(data) for data in files.values()]
        assert archive.skipped == {}


def test_litter_is_passed_over_and_counted_by_kind(make_zip):
    litter = ["__MACOSX/cat/._0.png", "cat/.DS_Store", "cat/Thumbs.db", "cat/thumbs.db", ".ipynb_checkpoints/x.png"]
    litter += ["cat/.ipynb_checkpoints/y.png", ".git/config"]
    with SafeArchive.open(make_zip({"cat/0.png": b"x"} | dict.fromkeys(litter[:3] + litter[4:], b"?"))) as archive:
        assert [entry.path for entry in archive.entries] == ["cat/0.png"]
        assert archive.skipped == {"__MACOSX": 1, "dotfiles": 2, "Thumbs.db": 1, ".ipynb_checkpoints": 2}


def test_folders_that_are_entries_are_known_and_are_no_files(make_zip):
    with SafeArchive.open(make_zip({"cat/": b"", "cat/0.png": b"x", "empty/": b"", ".hidden/": b""})) as archive:
        assert [entry.path for entry in archive.entries] == ["cat/0.png"]
        assert archive.folders == ("cat", "empty")


def test_leading_dot_slash_as_tar_writes_it_is_accepted(make_zip):
    with SafeArchive.open(make_zip({"./": b"", "./cat/0.png": b"x"})) as archive:
        assert [(entry.path, archive.read(entry)) for entry in archive.entries] == [("cat/0.png", b"x")]


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../evil.png", "out of the archive"),
        ("cat/../../evil.png", "out of the archive"),
        ("cat/..", "out of the archive"),
        ("/etc/passwd", "absolute"),
        ("cat\\0.png", "backslash"),
        ("..\\evil.png", "backslash"),
        ("C:/evil.png", "drive"),
        ("cat/a.png:stream", "drive letter or a stream"),
        ("cat/a\0b.jpg", "NUL"),
        ("cat/a\nb.jpg", "control character (U+000A)"),
        ("cat/a\x1b[31m.jpg", "control character (U+001B)"),
        ("cat/\u202egnp.exe", "reading direction (U+202E)"),
        ("cat/\u2066x.png", "reading direction"),
        ("cat/\u2028x.png", "control character (U+2028)"),
        ("cat/" + "a" * 252 + ".png", "longer than 255 bytes"),
        ("cat/" + "é" * 128, "longer than 255 bytes"),
        ("/".join(["abcdefghi"] * 110), "longer than 1024 bytes"),
    ],
)
def test_names_that_lead_elsewhere_or_hide_something_are_refused(make_raw, name, said):
    error = refused(make_raw(GOOD, RawEntry(name.encode(), b"x")))
    (fault,) = error.faults
    assert said in fault.message
    assert fault.path.isprintable()
    assert not isinstance(error, ArchiveTooLargeError)


def test_name_rules_hold_for_litter_and_folders_too(make_raw):
    error = refused(make_raw(GOOD, RawEntry(b"__MACOSX/../x"), RawEntry(b"../", method=0), RawEntry(b".a\\b")))
    assert [fault.path for fault in error.faults] == ["__MACOSX/../x", "../", ".a\\b"]


@pytest.mark.parametrize("flags", [0, 0x800])
def test_names_not_in_utf8_are_refused_with_their_bytes_shown(make_raw, flags):
    error = refused(make_raw(GOOD, RawEntry(b"Gr\x94\xe1e/1.png", flags=flags), RawEntry(b"../x")))
    paths = {fault.path: fault.message for fault in error.faults}
    assert paths.keys() == {r"Gr\x94\xe1e/1.png", "../x"}
    assert "UTF-8" in paths[r"Gr\x94\xe1e/1.png"]


def test_utf8_names_are_read_whether_or_not_the_entry_says_so(make_raw):
    entries = [RawEntry("Größe/1.png".encode(), b"a", flags=0), RawEntry("貓/2.png".encode(), b"b", flags=0x800)]
    with SafeArchive.open(make_raw(*entries)) as archive:
        assert {e.path: archive.read(e) for e in archive.entries} == {"Größe/1.png": b"a", "貓/2.png": b"b"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("cat/a.png", "cat/a.png"),
        ("a", "a"),
        ("cat/a.png", "cat/A.PNG"),
        ("cat/stra\u00dfe.png", "cat/STRASSE.png"),
        ("cat/\u00e9.png", "cat/e\u0301.png"),
        ("cat/a.png", "./cat//a.png"),
    ],
)
def test_duplicate_names_are_refused_up_to_case_and_accents(make_raw, first, second):
    error = refused(make_raw(RawEntry(first.encode(), b"1"), RawEntry(second.encode(), b"2")))
    (fault,) = error.faults
    assert fault.path == second
    assert "twice" in fault.message or "differs" in fault.message


@pytest.mark.parametrize("name", ["", ".", "./.", ".//."])
def test_a_file_without_a_name_is_refused(make_raw, name):
    (fault,) = refused(make_raw(GOOD, RawEntry(name.encode(), b"x"))).faults
    assert "the name is empty" in fault.message


@pytest.mark.parametrize(
    "names",
    [
        ("cat/a", "cat/a/b.png"),
        ("cat/a/b.png", "cat/a"),
        ("cat/a", "cat/A/b/c.png"),
        ("cat/a", "cat/a/"),
        ("cat", "cat!/x", "cat/a/b/c.png"),
        ("stra\u00dfe", "STRASSE/1.png"),
    ],
)
def test_a_file_that_is_a_folder_too_is_refused(make_raw, names):
    (fault,) = refused(make_raw(*(RawEntry(name.encode(), b"x") for name in names))).faults
    assert fault.path == min(names, key=len)
    assert "a file and a folder" in fault.message


def test_names_that_begin_alike_are_no_folders_of_each_other(make_raw):
    names = ["cat/a", "cat/a.png", "cat/ab/c.png", "cat/a!/d.png", "cat/"]
    with SafeArchive.open(make_raw(*(RawEntry(name.encode(), b"x") for name in names))) as archive:
        assert len(archive.entries) == 4


# --- what an entry is ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK, 0o030000])
def test_anything_but_files_and_folders_is_refused(make_raw, kind):
    error = refused(make_raw(GOOD, RawEntry(b"cat/link", b"/etc/passwd", mode=kind | 0o777)))
    assert [fault.path for fault in error.faults] == ["cat/link"]
    assert "only files and folders" in error.faults[0].message


@pytest.mark.parametrize("mode", [0, 0o644, stat.S_IFREG | 0o644])
def test_plain_files_with_or_without_a_type_are_accepted(make_raw, mode):
    with SafeArchive.open(make_raw(RawEntry(b"cat/0.png", b"x", mode=mode))) as archive:
        assert archive.read("cat/0.png") == b"x"


@pytest.mark.parametrize("flags", [0x1, 0x41, 0x2001])
def test_encrypted_entries_are_refused(make_raw, flags):
    (fault,) = refused(make_raw(GOOD, RawEntry(b"cat/1.png", b"x", flags=flags))).faults
    assert (fault.path, fault.message.split(";")[0]) == ("cat/1.png", "encrypted")


@pytest.mark.parametrize(
    ("method", "packed", "said"),
    [(12, bz2.compress(bytes(10**6)), "bzip2"), (14, b"??", "LZMA"), (93, b"??", "Zstandard"), (77, b"?", "method 77")],
)
def test_only_stored_and_deflated_are_accepted(make_raw, method, packed, said):
    entry = RawEntry(b"cat/1.png", bytes(100), method=method, packed=packed)
    (fault,) = refused(make_raw(GOOD, entry)).faults
    assert said in fault.message
    assert "stored and deflated" in fault.message


# --- bombs -----------------------------------------------------------------------------------------------------------


def test_a_bomb_by_ratio_is_over_a_limit(make_raw):
    error = refused(make_raw(GOOD, RawEntry(b"cat/1.png", bytes(3_000_000))))
    assert isinstance(error, ArchiveTooLargeError)
    assert [fault.path for fault in error.faults] == ["cat/1.png"]
    assert "times its size" in error.faults[0].message


def test_a_high_ratio_below_a_megabyte_is_no_bomb(make_raw):
    with SafeArchive.open(make_raw(RawEntry(b"cat/1.bmp", bytes(900_000)))) as archive:
        assert archive.read("cat/1.bmp") == bytes(900_000)


def test_a_bomb_by_count_is_refused_before_the_archive_is_opened(make_raw, monkeypatch):
    path = make_raw(*[RawEntry(f"c/{i}".encode()) for i in range(40)], count=3)
    monkeypatch.setattr(zipfile, "ZipFile", pytest.fail)
    error = refused(path, Limits(entries=39))
    assert isinstance(error, ArchiveTooLargeError)
    assert "more than 39 entries" in error.message


def test_bombs_by_total_and_by_one_file_are_over_limits(make_raw):
    entries = [RawEntry(f"c/{i}".encode(), bytes(100)) for i in range(5)]
    error = refused(make_raw(*entries), Limits(total_bytes=499))
    assert isinstance(error, ArchiveTooLargeError)
    assert "500 bytes; 499" in error.faults[0].message
    error = refused(make_raw(*entries), Limits(entry_bytes=99))
    assert isinstance(error, ArchiveTooLargeError)
    assert len(error.faults) == 5
    SafeArchive.open(make_raw(*entries), Limits(total_bytes=500, entry_bytes=100, entries=5)).close()


def test_a_bomb_of_many_small_files_is_over_a_limit(make_raw):
    """Each below the size from which one file's ratio is judged."""
    limits = Limits(sum_ratio_from_bytes=5_000_000)
    entries = [RawEntry(f"c/{i}.bmp".encode(), bytes(900_000)) for i in range(6)]
    error = refused(make_raw(*entries), limits)
    assert isinstance(error, ArchiveTooLargeError)
    assert [fault.path for fault in error.faults] == ["(archive)"]
    assert "times its size" in error.faults[0].message
    SafeArchive.open(make_raw(*entries[:5]), limits).close()
    noise = RawEntry(b"c/noise.png", bytes(range(256)) * 200, method=0)
    SafeArchive.open(make_raw(*entries, noise), limits).close()


def test_declared_zip64_sizes_are_believed_when_they_are_huge(make_raw):
    entry = RawEntry(b"c/1", b"x", size=2**40, zip64=True)
    assert isinstance(refused(make_raw(entry)), ArchiveTooLargeError)


def test_the_archive_and_its_directory_have_limits_of_their_own(make_raw):
    path = make_raw(GOOD)
    assert isinstance(refused(path, Limits(archive_bytes=path.stat().st_size - 1)), ArchiveTooLargeError)
    assert isinstance(refused(path, Limits(directory_bytes=54)), ArchiveTooLargeError)
    SafeArchive.open(path, Limits(archive_bytes=path.stat().st_size, directory_bytes=55)).close()


def test_a_file_longer_than_declared_is_caught_though_its_checksum_matches(make_raw):
    data = picture(2) + bytes(5000)
    entry = RawEntry(b"cat/1.png", data, size=100, crc=zlib.crc32(data[:100]))
    with SafeArchive.open(make_raw(GOOD, entry)) as archive:
        with pytest.raises(ArchiveError, match="more than the 100 bytes") as caught:
            archive.read("cat/1.png")
        assert not isinstance(caught.value, DamagedEntryError)
        assert archive.read("cat/0.png") == GOOD.data


def test_a_lying_file_never_unpacks_past_its_declared_size(make_raw, monkeypatch):
    unpacked = 0
    read = zipfile.ZipExtFile.read

    def spy(self, n=-1):
        nonlocal unpacked
        data = read(self, n)
        unpacked += len(data)
        return data

    monkeypatch.setattr(zipfile.ZipExtFile, "read", spy)
    path = make_raw(RawEntry(b"c/1", bytes(50_000_000), size=1000))
    with SafeArchive.open(path) as archive, pytest.raises(ArchiveError):
        archive.read("c/1")
    assert unpacked == 1001


@pytest.mark.parametrize(
    "entry",
    [
        RawEntry(b"cat/1.png", picture(2), crc=12345),
        RawEntry(b"cat/1.png", picture(2), size=len(picture(2)) + 10),
        RawEntry(b"cat/1.png", picture(2), packed=b"\xff\xff\xff\xff not deflate"),
        RawEntry(b"cat/1.png", bytes(range(256)) * 20, packed=zlib.compress(bytes(range(256)) * 20)[2:40]),
        RawEntry(b"cat/1.png", picture(2), local_name=b"dog/1.png"),
    ],
    ids=["checksum", "short", "not-deflate", "cut", "two-names"],
)
def test_a_damaged_file_concerns_only_itself(make_raw, entry):
    with SafeArchive.open(make_raw(GOOD, entry)) as archive:
        with pytest.raises(DamagedEntryError, match="cat/1.png") as caught:
            archive.read("cat/1.png")
        assert [fault.path for fault in caught.value.faults] == ["cat/1.png"]
        assert archive.read("cat/0.png") == GOOD.data


def test_a_stored_file_with_two_sizes_is_refused(make_raw):
    (fault,) = refused(make_raw(RawEntry(b"c/1", b"12345", method=0, size=4))).faults
    assert "two sizes" in fault.message


def test_overlapping_entries_are_refused(make_raw):
    kernel = RawEntry(b"c/0", bytes(1000))
    error = refused(make_raw(kernel, *[RawEntry(f"c/{i}".encode(), bytes(1000), offset=0) for i in range(1, 4)]))
    assert {fault.path for fault in error.faults} >= {"c/0", "c/1", "c/2"}
    assert all("overlap" in fault.message for fault in error.faults)


def test_an_entry_that_reaches_into_the_directory_is_refused(make_raw):
    (fault,) = refused(make_raw(RawEntry(b"c/0", b"x" * 10, method=0, size=500, compressed=500))).faults
    assert "overlap those of the directory" in fault.message


# --- the archive as a whole ------------------------------------------------------------------------------------------


def test_a_prefix_makes_a_polyglot_and_is_refused(make_raw, tmp_path):
    assert "begins like a program" in refused(make_raw(GOOD, prefix=b"MZ\x90\x00")).message
    assert "begins like an HTML page" in refused(make_raw(GOOD, prefix=b"<html><script>")).message
    inner = raw_zip([RawEntry(b"a", b"1")])
    (tmp_path / "double.zip").write_bytes(inner + raw_zip([GOOD]))  # begins as a zip, and another one is at its end
    assert "not where it says" in refused(tmp_path / "double.zip").message


def test_bytes_after_the_end_are_refused_and_a_comment_is_not(make_raw):
    assert "Bytes follow" in refused(make_raw(GOOD, suffix=b"more")).message
    SafeArchive.open(make_raw(GOOD, comment=b"made by hand")).close()


def test_a_false_end_inside_the_comment_does_not_hide_the_true_one(make_raw):
    fake = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
    assert refused(make_raw(GOOD, comment=b"x" + fake))


@pytest.mark.parametrize("keep", [0, 3, 30, 60, 100, -1, -22, -23, -40])
def test_a_truncated_archive_is_one_clear_error(make_raw, tmp_path, keep):
    whole = make_raw(GOOD, RawEntry(b"dog/0.png", picture(2))).read_bytes()
    cut = tmp_path / "cut.zip"
    cut.write_bytes(whole[:keep])
    assert refused(cut).message.endswith((".", "class."))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"", "empty, 0 bytes"),
        (b"Rar!\x1a\x07\x00", "RAR archive"),
        (b"7z\xbc\xaf\x27\x1c", "7z archive"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x07\x08PK\x03\x04", "one part of several"),
        (b'{"a": 1}', "text"),
        (b"\x00\x01\x02", "unknown binary data"),
    ],
)
def test_what_is_no_zip_is_named(tmp_path, head, said):
    path = tmp_path / "x.zip"
    path.write_bytes(head)
    assert said in refused(path).message


def test_an_empty_zip_opens_with_nothing_in_it(make_zip):
    with SafeArchive.open(make_zip({})) as archive:
        assert archive.entries == ()


def test_a_part_of_several_and_a_wrong_count_are_refused(make_raw):
    assert "one part of several" in refused(make_raw(GOOD, disk=1)).message
    assert "says 7" in refused(make_raw(GOOD, count=7)).message


def test_zip64_is_accepted(make_raw):
    with SafeArchive.open(make_raw(RawEntry(b"cat/0.png", b"data", zip64=True), zip64=True)) as archive:
        assert archive.read("cat/0.png") == b"data"


def test_a_zip64_directory_that_is_missing_or_elsewhere_is_refused(make_raw, tmp_path):
    whole = make_raw(GOOD, zip64=True).read_bytes()
    at = whole.rindex(b"PK\x06\x06")
    for broken in (whole.replace(b"PK\x06\x07", b"PK\x06\x00"), whole.replace(b"PK\x06\x06", b"PK\x06\x00")):
        (tmp_path / "broken.zip").write_bytes(broken)
        assert "zip64" in refused(tmp_path / "broken.zip").message
    assert at > 0


def test_every_problem_is_reported_at_once_and_past_a_hundred_they_are_counted(make_raw):
    bad = [RawEntry(b"../a"), RawEntry(b"cat/l", mode=stat.S_IFLNK), RawEntry(b"cat/e", flags=1), RawEntry(b"cat/e")]
    error = refused(make_raw(GOOD, *bad, RawEntry(b"cat/0.png"), RawEntry(b"cat/b.png", bytes(3_000_000))))
    assert {fault.path for fault in error.faults} == {"../a", "cat/l", "cat/e", "cat/0.png", "cat/b.png"}
    error = refused(make_raw(*[RawEntry(f"../{i}".encode()) for i in range(150)]))
    assert len(error.faults) == 101
    assert "and 50 more" in error.faults[-1].message
    assert "150 problems" in error.message


def test_survey_keeps_the_good_entries_of_a_hostile_archive(make_raw):
    with SafeArchive.survey(make_raw(GOOD, RawEntry(b"../a"))) as archive:
        assert [entry.path for entry in archive.entries] == ["cat/0.png"]
        assert [fault.path for fault in archive.faults] == ["../a"]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_reads_from_many_threads_give_every_file_its_own_bytes(make_zip):
    files = {f"c/{i}": bytes([i % 256]) * (i * 37 % 5000 + 1) for i in range(200)}
    start = threading.Barrier(8)
    with SafeArchive.open(make_zip(files)) as archive, ThreadPoolExecutor(8) as pool:

        def read_all(shift: int) -> bool:
            start.wait()
            names = list(files)
            return all(archive.read(name) == files[name] for name in names[shift:] + names[:shift])

        assert all(pool.map(read_all, range(0, 200, 25)))


def test_reopening_gives_the_same_files_without_judging_again(make_raw):
    files = [GOOD, RawEntry("./dog/ü.png".encode(), b"2", flags=0), RawEntry(b".DS_Store"), RawEntry(b"e/", method=0)]
    path = make_raw(*files)
    with SafeArchive.open(path) as first, SafeArchive.reopen(path) as again:
        assert (again.entries, again.folders, again.skipped) == (first.entries, first.folders, first.skipped)
        assert again.read("dog/ü.png") == b"2"
        with pytest.raises(ArchiveError, match="no file dog/none"):
            again.read("dog/none")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_corruption_of_an_archive_raises_anything_but_an_archive_error(tmp_path_factory, data):
    whole = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed.zip"
    path.write_bytes(whole)
    archive = outcome(lambda: SafeArchive.open(path), ArchiveError)
    if isinstance(archive, ArchiveError):
        assert archive.message
        return
    with archive:
        for entry in archive.entries:
            content = outcome(lambda entry=entry: archive.read(entry), ArchiveError)
            assert content.faults if isinstance(content, ArchiveError) else len(content) == entry.size


@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20), max_size=6))
def test_whatever_is_accepted_can_be_read_and_stays_inside(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "names.zip"
    path.write_bytes(raw_zip([RawEntry(name.encode(), name.encode()) for name in names]))
    archive = outcome(lambda: SafeArchive.open(path), ArchiveError)
    if isinstance(archive, ArchiveError):
        return
    with archive:
        for entry in archive.entries:
            archive.read(entry)
            assert ".." not in entry.path.split("/")
            assert not entry.path.startswith("/")
        assert len({entry.path for entry in archive.entries}) == len(archive.entries)


def test_a_file_of_the_standard_library_and_a_streamed_one_are_alike(tmp_path):
    """Data descriptors, as streaming writers leave them, change nothing."""

    class Pipe:
        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

        def flush(self) -> None:
            self.file.flush()

    pipe = Pipe(tmp_path / "streamed.zip")
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as streamed:  # type: ignore[arg-type]
        for name, data in classes("cat").items():
            streamed.writestr(name, data)
    pipe.file.close()
    write_zip(tmp_path / "plain.zip", classes("cat"))
    with SafeArchive.open(tmp_path / "streamed.zip") as one, SafeArchive.open(tmp_path / "plain.zip") as other:
        assert one.entries == other.entries
        assert [one.read(entry) for entry in one.entries] == [other.read(entry) for entry in other.entries]


def test_survey_reads_nothing_that_lies_outside_the_file(make_raw):
    far = RawEntry(b"cat/far.png", b"x", offset=2**63 + 5, zip64=True)
    with SafeArchive.survey(make_raw(GOOD, far)) as archive:
        assert [entry.path for entry in archive.entries] == ["cat/0.png"]
        assert [fault.path for fault in archive.faults] == ["cat/far.png"]


@pytest.mark.parametrize("size", [0, 1, 1024**2 - 1, 1024**2, 1024**2 + 1, 3 * 1024**2])
@pytest.mark.parametrize("lie", [-1, 0, 1])
def test_sizes_around_the_pieces_that_are_read(make_raw, size, lie):
    data = bytes(range(256)) * (size // 256 + 1)
    entry = RawEntry(b"c/1", data[:size], size=max(0, size + lie))
    with SafeArchive.open(make_raw(entry), Limits(ratio=2000)) as archive:
        got = outcome(lambda: archive.read("c/1"), ArchiveError)
    if size + lie == size or (size == 0 and lie < 0):
        assert got == data[:size]
    else:
        assert isinstance(got, DamagedEntryError) == (lie > 0)


# --- small files, read at once ---------------------------------------------------------------------------------------


class Piecewise(SafeArchive):
    """Reads everything through `zipfile`, as large files are."""

    def _at_once(self, info: zipfile.ZipInfo) -> bytes | None:
        return None


STORED = RawEntry(b"cat/1.png", picture(3), method=0)
ODD = {
    "plain": GOOD,
    "stored": STORED,
    "empty": RawEntry(b"cat/e.png", b""),
    "empty and stored": RawEntry(b"cat/e.png", b"", method=0),
    "no UTF-8 flag": RawEntry(b"cat/0.png", picture(1), flags=0),
    "other name at the file": RawEntry(b"cat/0.png", picture(1), local_name=b"dog/0.png"),
    "longer name at the file": RawEntry(b"cat/0.png", picture(1), local_name=b"cat/0.png.exe"),
    "unpacks to more": RawEntry(b"cat/0.png", b"a" * 5000, size=4000, crc=zlib.crc32(b"a" * 4000)),
    "unpacks to less": RawEntry(b"cat/0.png", b"a" * 4000, size=5000),
    "stored, other checksum": RawEntry(b"cat/0.png", picture(1), method=0, crc=1),
    "deflated, other checksum": RawEntry(b"cat/0.png", picture(1), crc=1),
    "deflated, cut": RawEntry(b"cat/0.png", picture(1), packed=GOOD.payload()[:-5]),
    "deflated, followed by more": RawEntry(b"cat/0.png", picture(1), packed=GOOD.payload() + b"more"),
    "not deflated at all": RawEntry(b"cat/0.png", picture(1), packed=b"\xff" * 40),
}


def both_ways(path: Path) -> tuple[object, object]:
    def told(archive: SafeArchive, name: str) -> object:
        found = outcome(lambda: archive.read(name), ArchiveError)
        return (type(found), str(found), found.faults) if isinstance(found, ArchiveError) else found

    def read(kind: type[SafeArchive]) -> object:
        with kind.reopen(path) as archive:
            return [told(archive, entry.path) for entry in archive.entries]

    return read(SafeArchive), read(Piecewise)


@pytest.mark.parametrize("entry", ODD.values(), ids=list(ODD))
def test_a_file_read_at_once_is_what_zipfile_reads_or_refused_in_the_same_words(make_raw, entry):
    at_once, piecewise = both_ways(make_raw(entry, RawEntry(b"dog/0.png", picture(2))))
    assert at_once == piecewise


@settings(max_examples=300, deadline=None)
@given(data=st.data(), entry=st.sampled_from([GOOD, STORED, RawEntry(b"cat/0.png", bytes(3000))]))
def test_damage_anywhere_is_answered_alike_both_ways(tmp_path_factory, data, entry):
    raw = bytearray(raw_zip([entry, RawEntry(b"dog/0.png", picture(2))]))
    directory = raw.index(b"PK\x01\x02")
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(4, directory - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "both-ways.zip"
    path.write_bytes(raw)
    at_once, piecewise = both_ways(path)
    assert at_once == piecewise


def test_small_files_do_not_go_through_zipfile_and_large_ones_do(make_zip, monkeypatch):
    files = {"cat/0.png": picture(1), "cat/large.png": bytes(1024**2 + 1)}
    path, opened = make_zip(files), []
    plain = zipfile.ZipFile.open
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, info: opened.append(info.filename) or plain(self, info))
    with SafeArchive.reopen(path) as archive:
        assert {entry.path: archive.read(entry) for entry in archive.entries} == files
    assert opened == ["cat/large.png"]


def test_a_long_extra_field_before_the_file_is_read_over(tmp_path):
    path = tmp_path / "extra.zip"
    info = zipfile.ZipInfo("cat/0.png")
    info.extra = struct.pack("<HH", 0x5455, 500) + bytes(500)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, picture(1))
    with SafeArchive.open(path) as archive:
        assert archive.read("cat/0.png") == picture(1)


def test_reads_of_a_closed_archive_fail(make_zip):
    archive = SafeArchive.open(make_zip(classes("cat")))
    archive.close()
    with pytest.raises(ValueError, match="closed"):
        archive.read("cat/0.png")
