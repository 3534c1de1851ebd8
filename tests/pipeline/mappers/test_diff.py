"""Two label maps against each other: which pairs differ, and which clips' top class, by hand on five clips."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from adapt.errors import CacheError, MapperError
from pipeline import diff, map_labels
from tests import pets
from tests.places import ROOT

HEAD = "audio_label,label,weight,necessary,reason\n"
CACHED = Path("cache/pets/label_map.parquet")
HAND = Path("hand.csv")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`pets`, tagged, mapped and labelled, and a map by hand in which barks are a cat's and growls weigh more."""
    monkeypatch.chdir(tmp_path)
    pets.make(tmp_path)
    for name in ("audioset.csv", "generic_sounds.txt"):
        shutil.copy(ROOT / "data/labels" / name, "data/labels")
    pets.label()
    HAND.write_text(
        f"{HEAD}Bark,cat,1,false,a strange cat\nGrowling,dog,.6,false,r\nGrowling,cat,.2004,false,r\n"
        "Meow,cat,1,false,r\nBattle cry,dog,1,false,r\n"
    )
    return tmp_path


def compare(before: object, after: object, **changed: object) -> diff.Difference:
    return diff.run(diff.Options(**({"before": str(before), "after": str(after), "dataset": "pets"} | changed)))  # type: ignore[arg-type]


def pairs(changes: list[diff.Change]) -> list[tuple[str, str, float | None, float | None]]:
    return [(c.sound, c.label, c.before, c.after) for c in changes]


def test_pairs_are_added_removed_or_changed_in_weight_or_necessity(project: Path) -> None:
    found = compare(CACHED, HAND)
    assert (found.sources, found.n_pairs) == (("test", "hand"), (5, 5))
    assert pairs(found.added) == [("Bark", "cat", None, 1.0)]
    assert found.added[0].reason == "a strange cat"
    assert pairs(found.removed) == [("Bark", "dog", 1.0, None)]
    assert set(pairs(found.changed)) == {("Growling", "dog", 0.5, 0.6), ("Meow", "cat", 1.0, 1.0)}
    assert [c.necessary for c in found.changed if c.sound == "Meow"] == [False]  # in the cache it is necessary


@pytest.mark.parametrize(("min_change", "n"), [(0.0, 3), (0.001, 2), (0.2, 1)])
def test_weights_that_differ_by_less_than_asked_are_no_change(min_change: float, n: int, project: Path) -> None:
    assert len(compare(CACHED, HAND, min_change=min_change).changed) == n


def test_clips_whose_sounds_top_class_changes_are_named(project: Path) -> None:
    """One of five barks (sigmoid(2) = 0.88) and growls (0.73): dog 0.92, cat 0.15 before; dog 0.44, cat 0.90 now."""
    found = compare(CACHED, HAND)
    assert found.n_clips == 5
    assert [(t.clip_id, t.before, t.after) for t in found.turns] == [("barks", "dog", "cat")]
    assert found.why_no_clips == ""


def test_the_top_classes_are_those_of_the_stage(project: Path) -> None:
    HAND.write_text(f"{HEAD}Fart,cat,1,false,r\n")  # nothing that was heard
    tops = {clip_id: row["top_label"] for clip_id, row in pets.label(reduce="mean", threshold=0.4).items()}
    found = compare(CACHED, HAND)
    assert {t.clip_id: t.before for t in found.turns} == {c: top for c, top in tops.items() if top is not None}
    assert {t.after for t in found.turns} == {None}


def test_a_map_is_no_different_from_itself_exported(project: Path) -> None:
    map_labels.export(map_labels.ExportOptions("pets", Path("out.csv")))
    found = compare(CACHED, "out.csv", dataset="")  # both name the data set
    assert (found.dataset, found.added, found.removed, found.changed, found.turns) == ("pets", [], [], [], [])


def test_mappers_are_compared_by_their_names(project: Path) -> None:
    found = compare("lexical", CACHED)
    assert found.sources == ("lexical", "test")
    assert ("Dog", "dog", 1.0, None) in pairs(found.removed)


def test_without_pseudo_labels_pairs_are_compared_and_clips_are_not(project: Path) -> None:
    Path("cache/pets/pseudo_labels.parquet").unlink()
    found = compare(CACHED, HAND)
    assert (found.turns, found.n_clips, len(found.added)) == ([], 0, 1)
    assert found.why_no_clips == "cache/pets/pseudo_labels.parquet is missing: run `dvc repro pseudo_label`"
    assert diff.text(found).endswith(f"clips are not compared: {found.why_no_clips}")


@pytest.mark.parametrize(
    ("before", "after", "changed", "told"),
    [
        ("nobody", HAND, {}, "'nobody' is neither a mapper nor a file: choose one of"),
        (HAND, HAND, {"dataset": ""}, "the maps name no data set: say --dataset"),
        (CACHED, "cache/birds/label_map.parquet", {"dataset": ""}, "the maps name birds and pets: say --dataset"),
        (CACHED, HAND, {"min_change": -1}, "--min_change -1: give a part of a weight"),
        (CACHED, HAND, {"dataset": "birds"}, "'Bark' -> 'dog' is no sound of AudioSet or no class of birds"),
        ("llm", HAND, {}, "pets.jsonl is missing"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    before: object, after: object, changed: dict[str, object], told: str, project: Path
) -> None:
    Path("cache/birds").mkdir()
    shutil.copy(CACHED, "cache/birds")
    Path("data/labels/birds.txt").write_text("sparrow\n")
    with pytest.raises(MapperError, match=told):
        compare(before, after, **changed)


def test_a_broken_map_or_other_tags_are_one_line(project: Path) -> None:
    Path("broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(CacheError, match="broken.parquet: not a readable Parquet file"):
        compare("broken.parquet", HAND)
    shutil.rmtree("cache/pets/tags")
    with pytest.raises(CacheError, match="tags is missing"):
        compare(CACHED, HAND)


def test_the_command_prints_lines_or_json(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["map_labels", "diff", str(CACHED), str(HAND)]
    monkeypatch.setattr(sys, "argv", words)
    map_labels.main()
    assert capsys.readouterr().out.splitlines() == [
        "pets: test (5 pairs) -> hand (5 pairs): 1 removed, 1 added, 2 changed",
        "- Bark -> dog  1.000  made",
        "+ Bark -> cat  1.000  a strange cat",
        "~ Growling -> dog  0.500 -> 0.600  r",
        "~ Meow -> cat  1.000 -> 1.000  r",
        "1 of 5 clips change their sound's top class",
        "  barks: dog -> cat",
    ]
    monkeypatch.setattr(sys, "argv", [*words, "--json", "--min_change", "0.2"])
    map_labels.main()
    said = json.loads(capsys.readouterr().out)
    assert said["turns"] == [{"clip_id": "barks", "before": "dog", "after": "cat"}]
    assert [change["sound"] for change in said["changed"]] == ["Meow"]
