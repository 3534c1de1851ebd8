"""Lists of class names: a class has one line, whatever characters its name holds, and both packages read the same
names.
"""

import hashlib
from pathlib import Path

import pytest

from adapt.errors import CacheError, DatasetError, MapperError
from adapt.tables import cache, classes
from adapt.tables.classes import ClassesError
from pipeline import datasets
from pipeline.labels.lists import listed_classes, read_list
from pipeline.sql import tables

# What ends a line for str.splitlines, as its documentation lists them, but "\n".
BREAKS = ("\r", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
NFC, NFD = "caf\u00e9", "cafe\u0301"  # Unicode, annex 15: the letter as one character, and as a letter with an accent


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("names", [
    ["dog"], ["a b", "c'd", '"e"', "f,g", "-h", "%i", "\\j", "#k"], ["\u732b", "\U0001f600", NFC,
    "\u0939\u093f\u0928"], ["a\u00a0b", "a\u200db"],
])  # fmt: skip
def test_a_list_that_is_written_is_read_as_the_same_names(tmp_path: Path, names: list[str]) -> None:
    path = put(tmp_path / "labels.txt", classes.text_of(names))
    assert classes.read(path) == classes.read(path, by_hand=True) == names


def test_a_list_is_hashed_as_its_lines_without_the_last_break() -> None:
    assert classes.sha256(["cat", "dog"]) == hashlib.sha256(b"cat\ndog").hexdigest()
    assert classes.sha256([NFC]) == hashlib.sha256(b"caf\xc3\xa9").hexdigest()


@pytest.mark.parametrize("character", [*BREAKS, "\n", "\0", "\t", "\x1b", "\x7f", "\x9f"])
def test_a_name_with_a_control_character_is_refused_and_shown_as_bytes(character: str) -> None:
    shown = "".join(f"\\\\x{byte:02x}" for byte in character.encode())
    said = f"^a list has the class 'a{shown}b', whose name holds {shown}, a (control character|line break): rename it$"
    with pytest.raises(ClassesError, match=said):
        classes.check(["dog", f"a{character}b"], "a list")


@pytest.mark.parametrize(("names", "message"), [
    ([""], "has an empty name at label_id 0"),
    (["a", " "], "has an empty name at label_id 1"),
    (["a", "\u3000"], "has an empty name at label_id 1"),
    ([" a"], "the class ' a', whose name begins or ends with a blank"),
    (["a\u00a0"], r"the class 'a\\xa0', whose name begins or ends with a blank"),
    (["caf\udce9"], r"the class 'caf\\xe9', whose name holds \\xe9, a byte that is no UTF-8"),
    (["b", "a", "b"], "names 'b' more than once: a class has one line"),
    ([NFC, "a", NFD], r"the classes 'caf\\xe9' and 'cafe\\u0301', one name in two spellings of Unicode"),
])  # fmt: skip
def test_a_name_that_no_class_can_have_is_refused_in_one_line(names: list[str], message: str) -> None:
    with pytest.raises(ClassesError, match=f"^here .*{message}") as raised:
        classes.check(names, "here")
    assert "\n" not in str(raised.value)


def test_what_a_table_cannot_hold_is_escaped_and_told_from_a_backslash() -> None:
    assert classes.escaped("dog/caf\u00e9 \\x41.mp4") == "dog/caf\u00e9 \\x41.mp4"
    assert classes.escaped("dog/caf\udce9.mp4") == "dog/caf\\xe9.mp4"
    assert classes.escaped("a\\x0a\n.mp4") == "a\\\\x0a\\x0a.mp4"
    assert classes.escaped("\u2028\x85") == "\\xe2\\x80\\xa8\\xc2\\x85"
    assert classes.escaped("\ud800") == "\\xed\\xa0\\x80"  # no file can be called so, a list can say so


def test_of_a_list_written_by_hand_windows_line_ends_and_blank_lines_are_not_meant(tmp_path: Path) -> None:
    path = put(tmp_path / "mine.txt", b"\xef\xbb\xbfdog\r\n\r\n \tbig cat \t\r\n\nbird")
    assert classes.read(path, by_hand=True) == ["dog", "big cat", "bird"]
    with pytest.raises(ClassesError, match=r"mine\.txt has the class 'dog\\x0d', whose name holds \\x0d"):
        classes.read(put(path, b"dog\r\n"))  # scan writes none


@pytest.mark.parametrize(("content", "message"), [
    (b"", "names no class"), (b"\r\n \n", "names no class"), (b"dog\n\xe9\n", r"is not UTF-8 text \(byte 4\)"),
    (b"dog\rcat\r", r"has the class 'dog\\x0dcat', whose name holds \\x0d"), (None,
    r"cannot be read \(No such file or directory\)"),
])  # fmt: skip
def test_a_list_by_hand_that_is_none_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mine.txt" if content is None else put(tmp_path / "mine.txt", content)
    with pytest.raises(ClassesError, match=f"^{path} {message}"):
        classes.read(path, by_hand=True)


@pytest.mark.parametrize("character", BREAKS)
def test_every_reader_of_a_class_list_refuses_what_splitlines_would_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, character: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"dog\na{character}b\ncat\n"
    put(Path("cache/mine/labels.txt"), text)
    put(Path("data/labels/mine.txt"), text)
    with pytest.raises(
        CacheError, match=r"^cache/mine/labels\.txt has the class 'a.*: rename it, then run `dvc repro scan`"
    ):
        cache.read_labels("mine")
    with pytest.raises(CacheError, match=r"^cache/mine/labels\.txt has the class 'a"):
        tables.read_classes(Path("cache/mine"), {})
    with pytest.raises(DatasetError, match=r"^data/labels/mine\.txt has the class 'a"):
        datasets.label_list("mine", "folder")
    with pytest.raises(MapperError, match=r"^data/labels/mine\.txt has the class 'a"):
        listed_classes("mine")


def test_a_list_that_windows_wrote_gives_scan_and_the_mappers_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put(Path("data/labels/mine.txt"), b"\xef\xbb\xbfdog\r\n\r\ncat\r\n")
    assert datasets.label_list("mine", "folder") == listed_classes("mine") == ["dog", "cat"]


def test_the_generic_sounds_are_read_by_the_same_rules(tmp_path: Path) -> None:
    assert read_list(put(tmp_path / "sounds.txt", b"Music\r\nSpeech\r\n")) == ["Music", "Speech"]
    with pytest.raises(MapperError, match="sounds.txt names 'Music' more than once"):
        read_list(put(tmp_path / "sounds.txt", b"Music\nMusic\n"))
