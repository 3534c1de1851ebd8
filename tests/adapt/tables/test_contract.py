"""cache/schema.sql is the contract between the packages: whoever writes or reads a table is held to it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapt.errors import CacheError
from adapt.tables import cache, classes, parquet
from adapt.tables.schema import contract, schema_of, schema_sha256

TABLES = (
    "clips", "audio", "tags", "label_map", "class_map", "pseudo_labels", "predictions", "traces", "archived_clips",
    "archived_predictions",
)  # fmt: skip
LABELS = ["cat", "dog"]


def pseudo_label(clip_id: str, **changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "clip_id": clip_id, "status": "ok", "probs": [0.25, 0.75], "evidence": [0.1, 0.3], "absent": [0.0, 0.0],
        "mass": 0.3, "top_label": "dog",
        "causes": [{"sound": "Bark", "probability": 0.5, "weight": 0.6}],
    }  # fmt: skip
    return row | changes


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of data set `tiny` under a cache root of its own; schema.sql stays the project's."""
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    (tmp_path / "tiny").mkdir()
    return tmp_path / "tiny"


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_a_key_among_its_columns_and_a_version_of_its_own(table: str) -> None:
    assert set(contract(table).key) <= set(schema_of(table).names)
    assert [other for other in TABLES if schema_sha256(other) == schema_sha256(table)] == [table]


def test_a_row_that_pipeline_writes_comes_back_in_adapt(dataset: Path) -> None:
    provenance = {"classes_sha256": classes.sha256(LABELS)}
    parquet.write_table(
        dataset / "pseudo_labels.parquet", "pseudo_labels", [pseudo_label("b"), pseudo_label("a")], provenance
    )
    sounds = cache.read_sounds("tiny", LABELS)
    assert list(sounds) == ["a", "b"]
    assert sounds["a"].q.tolist() == [0.25, 0.75]
    assert (sounds["a"].mass, sounds["a"].status) == (0.3, "ok")


def test_another_class_order_is_one_error_that_names_both_files(dataset: Path) -> None:
    provenance = {"classes_sha256": classes.sha256(LABELS)}
    parquet.write_table(dataset / "pseudo_labels.parquet", "pseudo_labels", [pseudo_label("a")], provenance)
    with pytest.raises(
        CacheError, match=r"pseudo_labels.parquet was made for another list of classes than .*labels.txt"
    ):
        cache.read_sounds("tiny", LABELS[::-1])


def test_labels_in_another_order_than_clips_are_refused_by_whoever_reads_them(dataset: Path) -> None:
    parquet.write_table(dataset / "clips.parquet", "clips", [clip()], {"classes_sha256": classes.sha256(LABELS)})
    (dataset / "labels.txt").write_text(classes.text_of(LABELS))
    assert cache.read_labels("tiny") == LABELS
    (dataset / "labels.txt").write_text(classes.text_of(LABELS[::-1]))
    with pytest.raises(CacheError, match=r"clips.parquet was made for another list of classes than .*: run `dvc repro"):
        cache.read_labels("tiny")


def test_a_table_that_does_not_say_what_it_was_made_of_is_refused(dataset: Path) -> None:
    (dataset / "labels.txt").write_text(classes.text_of(LABELS))
    parquet.write_table(dataset / "clips.parquet", "clips", [clip()])
    with pytest.raises(
        CacheError, match=r"clips.parquet does not say for which .*labels.txt it .*: run `dvc repro scan"
    ):
        cache.read_labels("tiny")
    known = {"classes_sha256": classes.sha256(LABELS)}
    parquet.write_table(dataset / "pseudo_labels.parquet", "pseudo_labels", [pseudo_label("a")], known)
    with pytest.raises(CacheError, match=r"does not say for which .*clips.parquet it .*: run `dvc repro pseudo_label`"):
        cache.read_sounds("tiny", LABELS)


def test_pseudo_labels_without_a_value_for_each_class_are_refused(dataset: Path) -> None:
    labels = [*LABELS, "cow"]
    known = {"classes_sha256": classes.sha256(labels)}
    parquet.write_table(dataset / "pseudo_labels.parquet", "pseudo_labels", [pseudo_label("a")], known)
    with pytest.raises(CacheError, match="clip 'a' has not one value for each of the 3 classes"):
        cache.read_sounds("tiny", labels)


@pytest.mark.parametrize("change", [{"mass": 1.5}, {"status": "loud"}, {"probs": None}])
def test_the_writer_refuses_a_row_that_breaks_a_check(dataset: Path, change: dict[str, object]) -> None:
    with pytest.raises(CacheError, match="breaks the contract of pseudo_labels"):
        parquet.write_table(dataset / "x.parquet", "pseudo_labels", [pseudo_label("a", **change)])
    assert not (dataset / "x.parquet").exists()


def clip(**changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "clip_id": "a",
        "path": "a.mp4",
        "split": "test",
        "label_id": 0,
        "label": "cat",
        "status": "ok",
    }
    return row | {"content_sha256": "0" * 64} | changes


@pytest.mark.parametrize(
    "changes",
    [{"content_sha256": None}, {"content_sha256": None, "status": "failed"}, {"content_sha256": None, "error": "?"}],
)
def test_only_a_clip_that_failed_for_a_reason_has_no_hash(dataset: Path, changes: dict[str, object]) -> None:
    with pytest.raises(CacheError, match="breaks the contract of clips"):
        parquet.write_table(dataset / "clips.parquet", "clips", [clip(**changes)])


def test_why_scan_could_not_open_a_file_reaches_the_adapter(dataset: Path) -> None:
    rows = [
        clip(),
        clip(clip_id="b", content_sha256=None, status="failed", error="the file cannot be read (Input/output error)"),
    ]
    parquet.write_table(dataset / "clips.parquet", "clips", rows)
    assert [found.unread for found in cache.read_clips("tiny", "test")] == [
        "", "scan could not read it: the file cannot be read (Input/output error)"]  # fmt: skip


def test_the_writer_refuses_the_same_key_twice(dataset: Path) -> None:
    with pytest.raises(CacheError, match="breaks the contract"):
        parquet.write_table(dataset / "x.parquet", "pseudo_labels", [pseudo_label("a"), pseudo_label("a")])


def test_the_same_rows_in_any_order_give_the_same_bytes(dataset: Path) -> None:
    rows = [pseudo_label(c) for c in "abc"]
    parquet.write_table(dataset / "1.parquet", "pseudo_labels", rows, {"a": "1"})
    parquet.write_table(dataset / "2.parquet", "pseudo_labels", rows[::-1], {"a": "1"})
    assert (dataset / "1.parquet").read_bytes() == (dataset / "2.parquet").read_bytes()


def test_a_file_of_another_schema_version_is_one_clear_error(dataset: Path) -> None:
    pq.write_table(pa.table({"clip_id": ["a"]}), dataset / "pseudo_labels.parquet")
    with pytest.raises(CacheError, match="does not follow table pseudo_labels"):
        cache.read_sounds("tiny", LABELS)
    with pytest.raises(CacheError, match="does not follow table pseudo_labels"):
        parquet.read_table(dataset / "pseudo_labels.parquet", "pseudo_labels")


def test_a_truncated_file_is_one_clear_error(dataset: Path) -> None:
    path = dataset / "pseudo_labels.parquet"
    parquet.write_table(path, "pseudo_labels", [pseudo_label("a")])
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CacheError, match="not a readable Parquet file"):
        cache.read_sounds("tiny", LABELS)
    with pytest.raises(CacheError, match="not a readable Parquet file"):
        parquet.read_table(path, "pseudo_labels")


def table_of(*clip_ids: str) -> pa.Table:
    return pa.Table.from_pylist([pseudo_label(c) for c in clip_ids], schema=schema_of("pseudo_labels"))


def test_a_stream_of_batches_is_read_back_as_one_table(dataset: Path) -> None:
    path = dataset / "pseudo_labels.parquet"
    with parquet.Writer(path, "pseudo_labels", {"made_by": "test"}) as stream:
        stream.add(table_of("a", "b"))
        stream.add(table_of("c"))
        assert not path.exists()
    assert parquet.read_table(path, "pseudo_labels").column("clip_id").to_pylist() == ["a", "b", "c"]
    assert parquet.provenance(path)["made_by"] == "test"
    assert pq.read_metadata(path).num_row_groups == 2


@pytest.mark.parametrize("batches", [["b", "a"], ["a", "a"]])
def test_a_stream_out_of_key_order_leaves_no_file(dataset: Path, batches: list[str]) -> None:
    path = dataset / "pseudo_labels.parquet"
    with (
        pytest.raises(CacheError, match="do not come in the order of \\(clip_id\\)"),
        parquet.Writer(path, "pseudo_labels") as stream,
    ):
        for clip_id in batches:
            stream.add(table_of(clip_id))
    assert not list(dataset.glob("*pseudo_labels*"))


def test_a_stream_refuses_a_row_that_breaks_a_check(dataset: Path) -> None:
    wrong = pa.Table.from_pylist([pseudo_label("a") | {"mass": 1.5}], schema=schema_of("pseudo_labels"))
    with (
        pytest.raises(CacheError, match="breaks the contract"),
        parquet.Writer(dataset / "x.parquet", "pseudo_labels") as stream,
    ):
        stream.add(wrong)
