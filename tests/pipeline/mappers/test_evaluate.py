"""Maps against references: the three shares by hand, AVE's gold from the ontology, and references that are nobody's
replies.
"""

import csv
import json
from pathlib import Path

import pytest

from adapt.errors import MapperError
from pipeline import calibrate, evaluate, mappers
from pipeline.labels.lists import label_lists, listed_classes
from pipeline.mappers import Settings
from tests.places import ROOT

REFERENCES = sorted(path.stem for path in (ROOT / "data/maps/reference").glob("*.csv"))
HEAD = "audio_label,label,weight,necessary,reason\n"


@pytest.fixture
def project(project: Path) -> Path:
    Path("data/maps/reference").mkdir(parents=True)
    Path("data/maps/reference/pets.csv").write_text(
        f"{HEAD}Dog,dog,1,false,same\nBark,dog,1,false,voice\nMeow,cat,1,false,voice\n"
    )
    return project


def test_precision_recall_and_coverage_are_counted_as_by_hand(project: Path) -> None:
    Path("data/maps/pets.csv").write_text(
        f"{HEAD}Dog,dog,1,false,r\nDog,cat,1,false,r\nSpeech,fire_truck,1,false,r\nBark,dog,.1,false,r\n"
    )
    (quality,) = evaluate.run(evaluate.Options(("pets",), ("table",)))
    assert (quality.n_pairs, quality.n_right, quality.n_reference, quality.n_covered, quality.n_classes) == (
        4,
        2,
        3,
        1,
        2,
    )
    assert (quality.precision, quality.recall, quality.coverage) == (2 / 4, 2 / 3, 1 / 2)


def test_a_map_of_nothing_has_no_precision(project: Path) -> None:
    Path("data/maps/pets.csv").write_text(HEAD)
    (quality,) = evaluate.run(evaluate.Options(("pets",), ("table",)))
    assert (quality.precision, quality.recall, quality.coverage) == (None, 0, 0)
    assert "| pets | table | 0 | - | 0 | 0 | 0 |" in evaluate.markdown([quality])


def test_a_data_set_without_a_reference_is_told_the_choice(project: Path) -> None:
    Path("data/labels/birds.txt").write_text("bird\n")
    with pytest.raises(MapperError, match=r"reference/birds.csv is missing: .*choose one of \['pets'\]"):
        evaluate.run(evaluate.Options(("birds",), ("lexical",)))


def test_the_command_prints_a_table_or_json_and_fails_in_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main(["pets", "--mappers", "lexical"])
    assert (
        capsys.readouterr().out.splitlines()[2] == "| pets | lexical | 1 | 100 | 33 | 50 | 50 |"
    )  # "Dog" is the one name that says a class
    evaluate.main(["--json", "--mappers", "lexical"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["dataset"], row["n_right"], row["precision"], row["coverage"]) == ("pets", 1, 1.0, 0.5)
    with pytest.raises(SystemExit, match="1"):
        evaluate.main(["pets"])  # nobody asked a model about them
    assert capsys.readouterr().err.startswith("pipeline.map_labels evaluate: data/replies/pets.jsonl is missing: run `")


def test_references_ship_for_six_data_sets_and_are_no_mappers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert {"demo", "photosound", "ave", "kinetics_sounds", "avmit", "ucf101"} <= set(REFERENCES)
    for dataset in REFERENCES:
        lists = label_lists(dataset, listed_classes(dataset))
        found = mappers.build("table", Settings(table=f"data/maps/reference/{dataset}.csv"))(lists)
        assert found.source == "hand"
        assert found.pairs


def test_aves_reference_is_the_sounds_of_the_same_name_and_all_below_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    nodes = {node["id"]: node for node in json.loads(Path("data/labels/audioset_ontology.json").read_text())}
    with Path("data/labels/audioset.csv").open(newline="") as file:
        sounds = {row["mid"]: row["display_name"] for row in csv.DictReader(file)}

    def below(mid: str) -> set[str]:
        return {mid}.union(*(below(child) for child in nodes[mid]["child_ids"]))

    mids = {name: mid for mid, name in sounds.items()}
    classes = listed_classes("ave")
    expected = {(sounds[mid], label) for label in classes for mid in below(mids[label]) if mid in sounds}
    lists = label_lists("ave", classes)
    assert {(lists.sounds[i], lists.classes[j]) for i, j in evaluate.reference(lists)} == expected


def test_names_alone_find_ave_and_miss_ucf101(monkeypatch: pytest.MonkeyPatch) -> None:
    # AVE's 28 class names are AudioSet's own, so words cover every class; UCF101 names actions, of which few are called
    # like their sound
    monkeypatch.chdir(ROOT)
    ave, ucf101 = evaluate.run(evaluate.Options(("ave", "ucf101"), ("lexical",)))
    assert ave.coverage == 1
    assert ucf101.coverage is not None
    assert ucf101.coverage < 0.5


def test_f1_is_the_harmonic_mean_of_precision_and_recall(project: Path) -> None:
    Path("data/maps/pets.csv").write_text(f"{HEAD}Dog,dog,1,false,r\nDog,cat,1,false,r\n")
    (quality,) = evaluate.run(evaluate.Options(("pets",), ("table",)))
    assert quality.f1 == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))


def test_only_classes_whose_videos_carry_sound_count_where_a_list_says_which(project: Path) -> None:
    Path("data/labels/pets_with_sound.txt").write_text("cat\nfire_truck\n")
    Path("data/maps/pets.csv").write_text(f"{HEAD}Dog,dog,1,false,r\nMeow,cat,1,false,r\nDog,cat,1,false,r\n")
    (quality,) = evaluate.run(evaluate.Options(("pets",), ("table",)))
    assert (quality.n_pairs, quality.n_right, quality.n_reference, quality.n_classes) == (2, 1, 1, 1)
    Path("data/labels/pets_with_sound.txt").write_text("cow\n")
    with pytest.raises(MapperError, match="pets_with_sound.txt holds none of the classes of pets"):
        evaluate.run(evaluate.Options(("pets",), ("table",)))


def test_cohens_kappa_is_that_of_a_worked_example() -> None:
    # 50 grant applications, two readers: both yes 20, both no 15, 5 and 10 apart (Wikipedia, "Cohen's kappa")
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert evaluate.kappa(first, second) == pytest.approx(0.4)
    assert evaluate.kappa([True, True], [True, True]) is None


def test_a_second_pass_is_compared_with_the_reference(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = Path("data/maps/reference/second_pass/pets.csv")
    again.parent.mkdir()
    again.write_text("audio_label,label,points\nDog,dog,true\nBark,dog,true\nMeow,dog,false\nSpeech,cat,true\n")
    evaluate.main(["--agreement"])
    assert capsys.readouterr().out.splitlines()[2] == "| pets | 4 | 3 | 0.50 |"  # by hand: (3/4 - 1/2) / (1 - 1/2)
    again.write_text("audio_label,label,points\nMoo,dog,true\n")
    with pytest.raises(MapperError, match="second_pass/pets.csv: .*Moo.*restore the file"):
        evaluate.agreement("pets")


@pytest.mark.parametrize("dataset", REFERENCES)
def test_every_reference_was_judged_a_second_time_over_a_hundred_pairs(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    found = evaluate.agreement(dataset)
    assert found.n_pairs == 100
    assert found.kappa is not None
    assert found.kappa > 0.8  # "almost perfect" (Landis and Koch, 1977)


def test_the_shipped_weights_are_those_that_the_shipped_replies_teach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    learned = calibrate.learn(("score",), calibrate.Options())["score"]
    shipped = json.loads(Path("data/maps/calibration.json").read_text())["score"]
    assert sorted(learned) == sorted(shipped)
    for dataset, weights in shipped.items():
        assert learned[dataset].opinions == pytest.approx(weights["opinions"], abs=1e-3)
        assert learned[dataset].threshold == pytest.approx(weights["threshold"], abs=0.011)
