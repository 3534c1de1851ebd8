"""What the cache may look like when it is not right: one line that names the file, what it should fit, and the command
that repairs it.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapt.errors import CacheError, QueryError
from pipeline import query
from pipeline.sql import tables
from pipeline.sql.connection import connect
from tests import pets
from tests.pets import FOLDER

SHARD = FOLDER / "tags/part-00000-of-00001.parquet"
PLACES = {
    "clips": FOLDER / "clips.parquet",
    "audio": FOLDER / "audio/part-00000-of-00001.parquet",
    "tags": SHARD,
    "label_map": FOLDER / "label_map.parquet",
    "pseudo_labels": FOLDER / "pseudo_labels.parquet",
    "predictions": FOLDER / "adapt/audio/predictions.parquet",
    "traces": FOLDER / "adapt/audio/traces.parquet",
}
COMMANDS = {table: f"run `dvc repro {stage}`" for table, (_, stage) in tables.FILES.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage has run."""
    return pets.made(tmp_path_factory, pets.label, pets.write_predictions)


def refusal() -> str:
    """What `connect` says; one line, as a command prints it."""
    with pytest.raises(CacheError) as error:
        connect("pets")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("table", PLACES)
def test_a_truncated_file_is_named_with_the_stage_that_makes_it(project: Path, table: str) -> None:
    path = PLACES[table]
    path.write_bytes(path.read_bytes()[:-9])
    said = refusal()
    assert said.startswith(f"{path} is not a whole Parquet file (table {table} of cache/schema.sql; ")
    assert COMMANDS[table] in said


@pytest.mark.parametrize("table", PLACES)
def test_a_file_of_another_schema_version_is_named(project: Path, table: str) -> None:
    path = PLACES[table]
    loaded = pq.read_table(path)
    pq.write_table(loaded.replace_schema_metadata(loaded.schema.metadata | {b"earshot.schema": b"0" * 64}), path)
    said = refusal()
    assert said.startswith(
        f"{path} does not follow table {table} of cache/schema.sql: it was written under version 00000000, now it is "
    )
    assert COMMANDS[table] in said


def test_a_file_that_earshot_did_not_write_is_named(project: Path) -> None:
    pq.write_table(pa.table({"clip_id": ["a"]}), PLACES["clips"])
    assert refusal().startswith(
        "cache/pets/clips.parquet does not follow table clips of cache/schema.sql: it was written under version None"
    )


@pytest.mark.parametrize(
    ("table", "column", "type_", "said"),
    [
        (
            "clips",
            "duration_s",
            pa.string(),
            "column duration_s is VARCHAR, but table clips of cache/schema.sql says DOUBLE",
        ),
        (
            "tags",
            "window_start_s",
            pa.float32(),
            "column window_start_s is FLOAT, but table tags of cache/schema.sql says DOUBLE",
        ),
        (
            "pseudo_labels",
            "mass",
            None,
            "column mass is missing, but table pseudo_labels of cache/schema.sql says DOUBLE",
        ),
    ],
)
def test_a_column_of_another_type_is_named(
    project: Path, table: str, column: str, type_: pa.DataType | None, said: str
) -> None:
    loaded = pq.read_table(PLACES[table])
    i = loaded.schema.get_field_index(column)
    changed = (
        loaded.drop_columns([column])
        if type_ is None
        else loaded.set_column(i, column, loaded.column(column).cast(type_))
    )
    pq.write_table(changed.replace_schema_metadata(loaded.schema.metadata), PLACES[table])
    assert refusal() == f"{PLACES[table]}: {said}: {COMMANDS[table]}"


def test_a_column_too_many_is_named(project: Path) -> None:
    loaded = pq.read_table(PLACES["clips"])
    pq.write_table(loaded.append_column("extra", pa.array(range(loaded.num_rows))), PLACES["clips"])
    assert (
        refusal()
        == f"{PLACES['clips']}: column extra is BIGINT, but table clips of cache/schema.sql says nothing of it: "
        f"{COMMANDS['clips']}"
    )


@pytest.mark.parametrize("table", ["clips", "label_map", "pseudo_labels"])
def test_another_class_order_names_both_files(project: Path, table: str) -> None:
    loaded = pq.read_table(PLACES[table])
    other = pets.classes_sha256(pets.CLASSES[::-1]).encode()
    pets.rewrite(
        PLACES[table], loaded.replace_schema_metadata(loaded.schema.metadata | {b"earshot.classes_sha256": other})
    )
    assert (
        refusal()
        == f"{PLACES[table]} was made for another list of classes than cache/pets/labels.txt: {COMMANDS[table]}"
    )


@pytest.mark.parametrize("table", PLACES)
def test_a_flipped_bit_is_noticed_before_anything_is_asked(project: Path, table: str) -> None:
    damaged = bytearray(PLACES[table].read_bytes())
    damaged[30] ^= 1
    PLACES[table].write_bytes(damaged)
    assert refusal().startswith(f"{PLACES[table]} is damaged (its bytes are not those that were written): run `dvc")


def test_a_flipped_bit_in_a_large_table_is_an_error_where_it_is_asked_for(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sql.connection.VERIFIED_BYTES", 0)
    damaged = bytearray(SHARD.read_bytes())
    place = pq.read_metadata(SHARD).row_group(0).column(4)
    damaged[(place.dictionary_page_offset or place.data_page_offset) + place.total_compressed_size - 3] ^= 1
    SHARD.write_bytes(damaged)
    with pytest.raises(SystemExit, match="1"):
        query.main(["pets", "SELECT max(logits[1]) FROM tags"])
    assert capsys.readouterr().err.startswith(f"pipeline.query: {SHARD} is damaged (its bytes are not those that were")


def test_a_missing_list_of_classes_names_the_tables_that_need_it(project: Path) -> None:
    (FOLDER / "labels.txt").unlink()
    assert (
        refusal()
        == "cache/pets/labels.txt is missing, the order of the classes in clips, label_map, pseudo_labels: run `dvc "
        "repro scan`"
    )


def test_another_list_of_sounds_names_both_files(project: Path) -> None:
    pets.write_labels(pets.SOUNDS[::-1])
    assert refusal() == (
        "cache/pets/tags was made with another list of sounds than data/labels/ears.csv holds now: restore it or run "
        "`dvc repro tag`"
    )


def test_another_ontology_names_both_files(project: Path) -> None:
    path = Path("data/labels/audioset_ontology.json")
    text = path.read_text()
    path.unlink()
    path.write_text(text + " ")
    assert refusal() == (
        "cache/pets/pseudo_labels.parquet was made with another ontology than data/labels/audioset_ontology.json holds "
        "now: "
        "run `dvc repro pseudo_label`"
    )


def test_pseudo_labels_that_do_not_say_how_they_were_made_are_refused(project: Path) -> None:
    loaded = pq.read_table(PLACES["pseudo_labels"])
    metadata = {key: value for key, value in loaded.schema.metadata.items() if key != b"earshot.threshold"}
    pets.rewrite(PLACES["pseudo_labels"], loaded.replace_schema_metadata(metadata))
    assert refusal().endswith(
        "does not say with which ['threshold'] it was made, as cache/views.sql needs it: run `dvc repro pseudo_label`"
    )


@pytest.mark.parametrize(
    ("gone", "asked", "stage"),
    [
        ("tags", "tags", "tag"),
        ("tags", "sounds", "tag"),
        ("tags", "loudest('barks', 3)", "tag"),
        ("tags", "WHY('barks')", "pseudo_label"),
        ("pseudo_labels.parquet", "Disagreements", "pseudo_label"),
        ("label_map.parquet", "coverage", "pseudo_label"),
        ("adapt", "predictions", "adapt"),
        ("adapt", "outcomes", "adapt"),
    ],
)
def test_what_is_not_made_yet_names_the_stage_and_leaves_the_rest(
    project: Path, capsys: pytest.CaptureFixture[str], gone: str, asked: str, stage: str
) -> None:
    (FOLDER / gone).rename("elsewhere")
    with pytest.raises(SystemExit, match="1"):
        query.main(["pets", f"FROM {asked}"])
    name = asked.partition("(")[0]
    assert (
        capsys.readouterr().err.lower()
        == f"pipeline.query: pets has no {name.lower()} yet: run `dvc repro {stage}` first\n"
    )
    query.main(["pets", "--csv", "SELECT count(*) AS n FROM clips"])
    assert capsys.readouterr().out == "n\n5\n"


def test_a_stage_that_had_nothing_to_write_leaves_an_empty_table(project: Path) -> None:
    SHARD.unlink()
    with connect("pets") as connection:
        assert connection.sql("FROM tags").fetchall() == connection.sql("FROM sounds").fetchall() == []


def test_predictions_of_all_methods_are_one_table(project: Path) -> None:
    pets.write_predictions("source")
    with connect("pets") as connection:
        assert connection.sql("SELECT method FROM predictions ORDER BY method").fetchall() == [("audio",), ("source",)]


def test_a_data_set_without_tables_names_those_there_are(project: Path) -> None:
    Path("cache/metrics").mkdir()
    with pytest.raises(QueryError, match=r"cache/none has no tables: run `dvc repro`, or ask one of \['pets'\]"):
        connect("none")


def test_outside_the_project_the_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CacheError, match=r"cache/views.sql is missing: run from the project's root"):
        connect("pets")
