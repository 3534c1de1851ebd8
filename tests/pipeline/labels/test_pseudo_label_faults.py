"""The stage pseudo_label: one clear line where tables do not fit each other or are damaged."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapt import command
from adapt.errors import CacheError, OntologyError, OptionsError
from adapt.tables import cache, parquet
from pipeline import pseudo_label
from pipeline.sql import tagged
from tests import pets
from tests.pets import FOLDER, LABELS, label

SHARD = "tags/part-00000-of-00001.parquet"


def test_another_list_of_sounds_than_the_tags_were_made_with_is_an_error(project: Path) -> None:
    LABELS.write_text(LABELS.read_text().replace("Bark", "Woof"))
    with pytest.raises(
        CacheError,
        match="pets/tags was made with another list of sounds than data/labels/ears.csv holds now: .*`dvc repro tag`",
    ):
        label()


def test_shards_made_with_two_lists_of_sounds_are_an_error(project: Path) -> None:
    pets.write_tags({"talks": [[0.0] * 4]}, "part-00001-of-00002.parquet", labels_file="data/labels/nose.csv")
    with pytest.raises(
        CacheError,
        match=r"was made with 2 lists of sounds, \['data/labels/ears.csv', 'data/labels/nose.csv'\]: "
        r"run `dvc repro tag`",
    ):
        label()


def test_another_tagger_than_the_tags_were_made_by_is_an_error(project: Path) -> None:
    with pytest.raises(CacheError, match="made by the tagger 'ears', not 'nose': run `dvc repro tag`"):
        label(tagger="nose")


def test_a_sound_that_the_ontology_lacks_is_an_error_that_says_what_to_set(project: Path) -> None:
    pets.write_labels([*pets.SOUNDS[:3], "Purring engine"])
    pets.write_tags(pets.TAGS)
    with pytest.raises(
        OntologyError, match="lacks 1 of the tagger's sounds, first '/x/3': set pseudo_label.related to all"
    ):
        label()
    assert label(related="all")["barks"]["top_label"] == "dog"


def test_a_label_map_for_another_class_order_is_an_error(project: Path) -> None:
    pets.write_map(classes=["cat", "dog"])
    with pytest.raises(
        CacheError,
        match="map.parquet was made for another list of classes than cache/pets/labels.txt: run `dvc repro map_labels`",
    ):
        label()


def test_labels_in_another_order_than_scan_wrote_them_are_refused(project: Path) -> None:
    (FOLDER / "labels.txt").write_text("\n".join(pets.CLASSES[::-1]) + "\n")
    pets.write_map(classes=pets.CLASSES[::-1])
    with pytest.raises(CacheError, match=r"clips.parquet was made for another list of classes than .*: run `dvc repro"):
        label()


def test_a_row_of_the_label_map_that_names_another_class_is_an_error(project: Path) -> None:
    pets.write_map()
    path = FOLDER / "label_map.parquet"
    rows = pq.read_table(path)
    swapped = pa.array([pets.CLASSES[1 - i] for i in rows.column("label_id").to_pylist()])
    pets.rewrite(path, rows.set_column(rows.schema.get_field_index("label"), rows.schema.field("label"), swapped))
    with pytest.raises(
        CacheError, match=r"label_map.parquet: class \d is .* another one in labels.txt: run `dvc repro"
    ):
        label()


def test_tags_of_other_sound_than_audio_describes_are_an_error(project: Path) -> None:
    pets.write_tags(pets.TAGS, tagging="another window")
    with pytest.raises(CacheError, match=r"was tagged from other sound than .*audio describes: run `dvc repro tag`"):
        label()
    assert not (FOLDER / "pseudo_labels.parquet").exists()


def test_the_adapter_refuses_pseudo_labels_of_another_label_map_or_other_clips(project: Path) -> None:
    label()
    assert cache.read_sounds("pets", pets.CLASSES)
    pets.write_map(pets.PAIRS[:1])
    with pytest.raises(CacheError, match=r"was made for another cache/pets/label_map.parquet, which has changed: run"):
        cache.read_sounds("pets", pets.CLASSES)
    label()
    pets.write_clips([clip for clip in pets.STATUSES if clip != "barks"])
    with pytest.raises(CacheError, match=r"was made for another cache/pets/clips.parquet, which has changed: run `dvc"):
        cache.read_sounds("pets", pets.CLASSES)


def test_a_label_map_of_sounds_that_the_tagger_does_not_know_is_an_error(project: Path) -> None:
    pets.write_map([("Battle cry", 0, 1.0)])
    with pytest.raises(
        CacheError, match="none of its sounds is in data/labels/ears.csv, the tagger's list: run `dvc repro map_labels`"
    ):
        label()


def test_a_clip_with_sound_that_was_never_tagged_is_an_error(project: Path) -> None:
    pets.write_tags({"barks": [[0.0] * 4]})
    with pytest.raises(CacheError, match="lacks 2 clips that have sound, first 'talks': run `dvc repro tag`"):
        label()
    assert not (FOLDER / "pseudo_labels.parquet").exists()


def test_a_clip_in_two_shards_is_an_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tagged, "WINDOWS_AT_ONCE", 1)
    pets.write_tags({"talks": [[0.0] * 4]}, "part-00001-of-00002.parquet")
    with pytest.raises(CacheError, match="clip 'talks' has rows in two shards: run `dvc repro tag`"):
        label()


def test_too_few_logits_are_an_error(project: Path) -> None:
    pets.write_tags(pets.TAGS | {"barks": [[0.0] * 3]})
    with pytest.raises(
        CacheError, match="has rows without 4 logits, one a sound of its label list: run `dvc repro tag`"
    ):
        label()


@pytest.mark.parametrize(
    ("path", "table", "name"),
    [
        ("clips.parquet", "clips", "scan"),
        ("audio", "audio", "decode"),
        ("tags", "tags", "tag"),
        ("label_map.parquet", "label_map", "map_labels"),
    ],
)
def test_a_missing_table_names_the_contract_and_the_command(project: Path, path: str, table: str, name: str) -> None:
    (FOLDER / path).rename("elsewhere")
    with pytest.raises(
        CacheError,
        match=rf"^cache/pets/{path} is missing \(table {table} of cache/schema.sql\): run `dvc repro {name}`$",
    ):
        label()


def test_a_truncated_shard_is_named(project: Path) -> None:
    pets.write_tags({"talks": [[0.0] * 4]}, "part-00001-of-00002.parquet")
    (FOLDER / SHARD).write_bytes((FOLDER / SHARD).read_bytes()[:-20])
    with pytest.raises(
        CacheError,
        match=rf"{SHARD} is not a whole Parquet file \(table tags of cache/schema.sql; .*: run `dvc repro tag`$",
    ):
        label()


@pytest.mark.parametrize(("path", "repair"), [(SHARD, "tag"), ("audio/part-00000-of-00001.parquet", "decode")])
def test_a_file_with_a_broken_page_is_one_line(project: Path, path: str, repair: str) -> None:
    data = bytearray((FOLDER / path).read_bytes())
    data[4:60] = bytes(56)  # after the magic number lies the first page
    (FOLDER / path).write_bytes(data)
    with pytest.raises(CacheError, match=rf"is damaged .*: run `dvc repro {repair}`$"):
        label()


def test_a_shard_of_another_schema_version_is_named(project: Path) -> None:
    pets.write_tags({"talks": [[0.0] * 4]}, "part-00001-of-00002.parquet")
    table = pq.read_table(FOLDER / SHARD)
    pq.write_table(
        table.replace_schema_metadata(table.schema.metadata | {b"earshot.schema": b"0123456789"}), FOLDER / SHARD
    )
    with pytest.raises(
        CacheError,
        match=rf"{SHARD} does not follow table tags of cache/schema.sql: .* version 01234567, .*: run `dvc repro tag`",
    ):
        label()


def test_a_shard_with_another_column_type_is_named(project: Path) -> None:
    pets.write_tags({"talks": [[0.0] * 4]}, "part-00001-of-00002.parquet")
    table = pq.read_table(FOLDER / SHARD)
    wide = table.set_column(
        table.schema.get_field_index("logits"), "logits", table.column("logits").cast(pa.list_(pa.float64()))
    )
    pq.write_table(wide.replace_schema_metadata(table.schema.metadata), FOLDER / SHARD)
    with pytest.raises(
        CacheError,
        match=rf"{SHARD}: column logits is DOUBLE\[\], but table tags of cache/schema.sql says "
        r"FLOAT\[\]: run `dvc repro tag`",
    ):
        label()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("threshold", 1.5),
        ("threshold", float("nan")),
        ("top_k", 0),
    ],
)
def test_a_setting_out_of_range_names_itself(name: str, value: float, project: Path) -> None:
    with pytest.raises(OptionsError, match=f"^{name} is {value}: give "):
        label(**{name: value})


def test_an_unknown_way_to_combine_is_wrong_usage(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(
            pseudo_label.Options,
            pseudo_label.run,
            prog="p",
            args=["--dataset", "pets", "--tagger", "ears", "--combine", "avg"],
        )
    assert stop.value.code == 2
    assert "noisy_or" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("clip_ids", "odd"), [((*pets.STATUSES, "new"), "new"), (("barks", "mute", "talks"), "broken")]
)
def test_sound_of_other_clips_than_are_listed_is_an_error(clip_ids: tuple[str, ...], odd: str, project: Path) -> None:
    pets.write_clips(list(clip_ids))
    with pytest.raises(
        CacheError, match=rf"pets/audio was made of other clips than .* first '{odd}': run `dvc repro decode`"
    ):
        label()


def test_tags_that_do_not_say_how_they_were_made_are_an_error(project: Path) -> None:
    tags = parquet.read_table(FOLDER / "tags", "tags")
    whole = parquet.provenance(FOLDER / SHARD)
    for name in ("tagger", "tagging", "labels_file", "labels_sha256"):
        parquet.write_table(FOLDER / SHARD, "tags", tags, {key: value for key, value in whole.items() if key != name})
        with pytest.raises(CacheError, match="pets/tags.*run `dvc repro tag`"):
            label()
