"""Lists of classes: any names that are taken come back as they were, and every other list is refused."""

import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapt.tables import classes
from adapt.tables.classes import ClassesError

UNFIT = st.characters(categories=["Cc", "Cs", "Zl", "Zp"])
FIT = st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])
NAME = st.text(FIT, min_size=1).filter(lambda name: name == name.strip())
LISTS = st.lists(NAME, min_size=1, max_size=8, unique_by=lambda name: unicodedata.normalize("NFC", name))


def read(data: bytes, *, by_hand: bool = False) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        (path := Path(folder) / "labels.txt").write_bytes(data)
        return classes.read(path, by_hand)


@given(LISTS)
@example(["\ufeffa", "b"])
@example(["#EXTM3U", "a,b", '"', "\\n", "é", "日本"])
def test_names_that_are_taken_come_back_from_a_file(names: list[str]) -> None:
    classes.check(names, "here")
    assert read(classes.text_of(names).encode()) == names


@given(LISTS.filter(lambda names: not names[0].startswith("\ufeff")), st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_a_list_as_windows_or_an_editor_saves_it_has_the_same_names(names: list[str], mark: bool, end: str) -> None:
    text = ("\ufeff" if mark else "") + "".join(f" {name}\t{end}{end}" for name in names)
    assert read(text.encode(), by_hand=True) == names


@given(st.text(FIT), UNFIT, st.text(FIT), LISTS)
def test_a_name_with_a_control_character_or_a_line_break_is_refused(
    start: str, unfit: str, end: str, others: list[str]
) -> None:
    name = start + unfit + end
    with pytest.raises(ClassesError) as refused:
        classes.check([*others, name], "here")
    assert not {c for c in str(refused.value) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    assert not classes.fault(classes.escaped(name))


@given(LISTS, st.integers(0), st.sampled_from(["NFC", "NFD"]))
def test_a_name_that_is_there_twice_in_any_spelling_is_refused(names: list[str], which: int, form: str) -> None:
    again = unicodedata.normalize(form, names[which % len(names)])  # type: ignore[arg-type]
    with pytest.raises(ClassesError):
        classes.check([*names, again], "here")


@given(st.permutations(["a", "b", "c", "d"]), st.permutations(["a", "b", "c", "d"]))
def test_the_hash_tells_every_order_from_every_other(one: list[str], other: list[str]) -> None:
    assert (classes.sha256(one) == classes.sha256(other)) == (one == other)
