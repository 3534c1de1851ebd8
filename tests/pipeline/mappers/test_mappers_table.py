"""Maps as tables: written for a person, read back, told apart when edited, and refused line by line."""

import csv
from pathlib import Path

import pytest

from adapt.errors import CacheError, MapperError
from adapt.tables import parquet
from pipeline import map_labels, mappers
from pipeline.labels.lists import label_lists, read_classes
from pipeline.mappers import LabelMap, Settings
from tests import chat as served

HEAD = "audio_label,label,weight,necessary,reason\n"
TABLE = Path("map.csv")


def read(path: Path = TABLE) -> LabelMap:
    return mappers.build("table", Settings(table=str(path)))(label_lists("pets", read_classes("pets")))


def cached() -> list[dict[str, object]]:
    """A map in the cache whose reasons a spreadsheet could stumble over."""
    reasons = ['=HYPERLINK("http://x")', "a, b", 'he said "dog"', "'tis the voice"]
    pairs = [
        (0, "Dog", 0, "dog", 1.0),
        (1, "Bark", 0, "dog", 1 / 3),
        (2, "Meow", 1, "cat", 0.5),
        (3, "Speech", 1, "cat", 0.1),
    ]
    names = ("audio_id", "audio_label", "label_id", "label", "weight")
    rows: list[dict[str, object]] = [
        dict(zip(names, pair, strict=True)) | {"necessary": pair[0] == 2, "reason": reason, "source": "llm:m"}
        for pair, reason in zip(pairs, reasons, strict=True)
    ]
    parquet.write_table(Path("cache/pets/label_map.parquet"), "label_map", rows, {"mapper": "llm"})
    return rows


def export(**changed: object) -> dict[str, object]:
    return map_labels.export(map_labels.ExportOptions(**({"dataset": "pets", "out": TABLE} | changed)))  # type: ignore[arg-type]


def test_a_map_that_nobody_touched_comes_back_as_it_was(project: Path) -> None:
    rows = cached()
    assert export() == {"n_pairs": 4, "out": "map.csv", "source": "llm:m"}
    found = read()
    assert found.source == "llm:m"
    assert [(p.audio_id, p.label_id, p.weight, p.necessary, p.reason) for p in found.pairs] == [
        (r["audio_id"], r["label_id"], r["weight"], r["necessary"], r["reason"]) for r in rows
    ]
    assert "edited_from" not in found.provenance


def test_no_cell_starts_as_a_formula(project: Path) -> None:
    cached()
    export()
    with TABLE.open(newline="") as file:
        assert not [cell for row in csv.reader(file) for cell in row if cell.startswith(("=", "+", "-", "@"))]


def test_saving_in_a_spreadsheet_is_no_edit(project: Path) -> None:
    cached()
    export()
    with TABLE.open(newline="") as file:
        rows = list(csv.reader(file))
    with TABLE.open(
        "w", newline="", encoding="utf-8-sig"
    ) as file:  # a byte order mark, \r\n, every cell quoted, upper case, padded rows
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerows([*([*row, *[""] * (6 - len(row))] for row in [*rows[:2], *reversed(rows[2:])]), [""] * 6])
    TABLE.write_bytes(TABLE.read_bytes().replace(b'"true"', b'"TRUE"').replace(b'"0.5"', b'"0.50"'))
    assert read().source == "llm:m"


@pytest.mark.parametrize(
    ("old", "new"),
    [("0.5,true", "0.6,true"), ("0.5,true", "0.5,false"), ("Meow,cat", "Meow,fire_truck"), ('"a, b"', "because")],
)
def test_a_hand_edited_map_comes_back_as_edited(old: str, new: str, project: Path) -> None:
    cached()
    export()
    assert TABLE.read_text().count(old) == 1
    TABLE.write_text(TABLE.read_text().replace(old, new))
    found = read()
    assert (found.source, found.provenance["edited_from"]) == ("edited", "llm:m")


def test_a_deleted_line_is_an_edit_and_the_stage_writes_edited_as_source(project: Path) -> None:
    cached()
    export()
    TABLE.write_text(
        "".join(line for line in TABLE.read_text().splitlines(keepends=True) if not line.startswith("Speech"))
    )
    map_labels.run(map_labels.Options("pets", "table", table=str(TABLE)))
    rows = parquet.read_table(Path("cache/pets/label_map.parquet"), "label_map").to_pylist()
    assert [(row["audio_label"], row["source"]) for row in rows] == [
        ("Dog", "edited"),
        ("Bark", "edited"),
        ("Meow", "edited"),
    ]


def test_an_export_overwrites_an_export_but_nothing_that_a_person_wrote(project: Path) -> None:
    cached()
    export()
    export(mapper="lexical")
    assert read().source == "lexical"
    TABLE.write_text(TABLE.read_text().replace("Dog,dog,1.0", "Dog,dog,0.9"))
    for path in (TABLE, Path("hand.csv")):
        Path("hand.csv").write_text(HEAD)
        before = path.read_bytes()
        with pytest.raises(MapperError, match=f"{path} holds what a person wrote"):
            export(out=path)
        assert path.read_bytes() == before


def test_without_a_map_in_the_cache_the_export_says_what_to_run(project: Path) -> None:
    with pytest.raises(CacheError, match="label_map.parquet is missing: run `dvc repro"):
        export()


def test_a_table_of_nothing_is_a_map_of_nothing(project: Path) -> None:
    TABLE.write_text(HEAD)
    assert (read().pairs, read().source) == ([], "hand")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HEAD + "Dog,dog,1,false,r\nDoge,dog,1,false,r\n", "map.csv, line 3: unknown sound 'Doge'"),
        (HEAD + "Dog,wolf,1,false,r\n", "map.csv, line 2: unknown class 'wolf'"),
        (HEAD + 'Dog,dog,"0,5",false,r\n', "line 2: weight '0,5' is not a number with a point"),
        (HEAD + "Dog,dog,nan,false,r\n", "line 2: weight 'nan' is not above 0"),
        (HEAD + "Dog,dog,0,false,r\n", "line 2: weight '0' is not above 0"),
        (HEAD + "Dog,dog,1.5,false,r\n", "line 2: weight '1.5' is not above 0 and up to 1"),
        (HEAD + "Dog,dog,1,yes,r\n", "line 2: necessary 'yes': write true or false"),
        (HEAD + "Dog,dog,1,false,\n", "line 2: the reason is empty"),
        (HEAD + "Dog,dog,1,false\n", "line 2: 4 cells"),
        (HEAD + "Dog,dog,1,false,r,more\n", "line 2: 6 cells"),
        (HEAD + "Dog,dog,1,false,r\n\nDog,dog,.5,false,r\n", "line 4: 'Dog' -> 'dog' stands twice"),
        (HEAD + 'Dog,dog,1,false,"two\nlines"\nDog,wolf,1,false,r\n', "line 4: unknown class 'wolf'"),
        (HEAD + 'Dog,dog,1,false,"r\n', "line 2: not CSV"),
        (HEAD.replace(",", ";"), "line 1: columns .*separated by commas"),
        ("# earshot {\n" + HEAD, "line 1: '# earshot {' is not what an export writes"),
        ("", "line 1: columns"),
    ],
)
def test_a_bad_row_is_one_line_with_file_line_and_value(text: str, told: str, project: Path) -> None:
    TABLE.write_text(text)
    with pytest.raises(MapperError, match=told):
        read()


def test_a_table_that_is_not_utf_8_or_not_there_is_one_line(project: Path) -> None:
    TABLE.write_bytes(HEAD.encode() + b"Dog,dog,1,false,caf\xe9\n")
    with pytest.raises(MapperError, match="map.csv: not UTF-8"):
        read()
    with pytest.raises(
        MapperError,
        match="data/maps/pets.csv is missing: write it, or export one: `python -m pipeline.map_labels export pets",
    ):
        mappers.build("table")(label_lists("pets", served.CLASSES))
