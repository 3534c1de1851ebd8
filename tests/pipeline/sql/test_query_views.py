"""What SQL offers beside the tables: every view and macro on a data set of five clips whose answers are known."""

import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pytest

from pipeline.sql import connection as sql
from pipeline.sql.connection import connect
from pipeline.sql.tables import FILES
from tests import pets
from tests.places import ROOT


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """`pets` with pseudo-labels and a prediction; the clips turns and barks are cats in truth, the others are dogs."""
    cats = partial(pets.write_clips, list(pets.STATUSES), {"turns": 1, "barks": 1})
    root = pets.made(tmp_path_factory, cats, pets.label, pets.write_predictions)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        opened = connect("pets")
    with opened:
        yield opened


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = connection.sql(query).fetchall()
    return found


def test_every_table_can_be_asked_and_every_view_and_macro_has_its_stage() -> None:
    of_archives = "archived_"  # which lie outside the cache
    tables = set(re.findall(rf"CREATE TABLE (?!{of_archives})(\w+)", (ROOT / "cache/schema.sql").read_text()))
    offered = set(re.findall(r"CREATE (?:VIEW|MACRO) (\w+)", (ROOT / "cache/views.sql").read_text()))
    assert tables == set(FILES)
    assert sql.STAGES.keys() == tables | offered | {
        "classes",
        "tagger_labels",
        "related_sounds",
        "pseudo_label_settings",
    }


def test_a_sounds_probability_is_that_of_its_loudest_window(connection: duckdb.DuckDBPyConnection) -> None:
    found = dict(connection.sql("SELECT sound, probability FROM sounds WHERE clip_id = 'turns'").fetchall())
    expected = {"Speech": sigmoid(-6), "Meow": sigmoid(2), "Bark": 0.5, "Growling": sigmoid(-6)}
    assert found == {sound: pytest.approx(p) for sound, p in expected.items()}


def test_loudest_lists_a_clips_sounds_from_the_loudest(connection: duckdb.DuckDBPyConnection) -> None:
    assert rows(connection, "SELECT sound FROM loudest('barks', 2)") == [("Bark",), ("Growling",)]
    assert [sound for (sound,) in rows(connection, "SELECT sound FROM loudest('turns')")] == [
        "Meow",
        "Bark",
        "Speech",
        "Growling",
    ]
    assert rows(connection, "FROM loudest('mute')") == []


def test_heard_lists_the_clips_in_which_a_sound_was_heard(connection: duckdb.DuckDBPyConnection) -> None:
    found = rows(connection, "SELECT clip_id, label, probability FROM heard('Bark', 0.4)")
    assert found == [("barks", "cat", pytest.approx(sigmoid(2))), ("turns", "cat", 0.5)]
    assert rows(connection, "SELECT clip_id FROM heard('Bark', 0.6)") == [("barks",)]


def test_why_is_the_chain_from_sound_to_class(connection: duckdb.DuckDBPyConnection) -> None:
    bark, growl = sigmoid(2), sigmoid(1)
    dog, cat = 1 - (1 - bark) * (1 - 0.5 * growl), 0.2 * growl
    found = rows(
        connection, "SELECT sound, probability, label, weight, contribution, counts, score, share FROM why('barks')"
    )
    assert found == [
        (
            "Bark",
            *map(pytest.approx, (bark,)),
            "dog",
            1.0,
            pytest.approx(bark),
            True,
            pytest.approx(dog),
            pytest.approx(dog / (dog + cat)),
        ),
        (
            "Growling",
            pytest.approx(growl),
            "dog",
            0.5,
            pytest.approx(0.5 * growl),
            True,
            pytest.approx(dog),
            pytest.approx(dog / (dog + cat)),
        ),
        (
            "Growling",
            pytest.approx(growl),
            "cat",
            0.2,
            pytest.approx(0.2 * growl),
            True,
            pytest.approx(cat),
            pytest.approx(cat / (dog + cat)),
        ),
    ]
    assert rows(connection, "FROM why('mute')") == rows(connection, "FROM why('talks')") == []


@pytest.mark.parametrize("query", ["FROM loudest('nobody')", "FROM why('nobody')"])
def test_a_clip_that_does_not_exist_is_an_error_and_not_silence(
    connection: duckdb.DuckDBPyConnection, query: str
) -> None:
    with pytest.raises(duckdb.Error, match="clips has no clip_id nobody"):
        rows(connection, query)


def test_a_sound_that_does_not_exist_is_an_error_and_not_silence(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(duckdb.Error, match="tagger_labels has no sound Woof"):
        rows(connection, "FROM heard('Woof', 0.1)")


def test_disagreements_are_the_clips_whose_sound_speaks_for_another_class(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    assert rows(connection, "SELECT clip_id, label, top_label, causes[1].sound FROM disagreements") == [
        ("barks", "cat", "dog", "Bark")
    ]


def test_coverage_says_which_sounds_a_class_has_and_how_often_one_of_them_was_heard(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    found = rows(
        connection, "SELECT label, n_sounds, n_necessary, sounds, n_clips, n_supported, coverage FROM coverage"
    )
    assert found == [
        ("dog", 3, 0, ["Bark", "Battle cry", "Growling"], 3, 0, 0.0),
        ("cat", 2, 1, ["Meow", "Growling"], 2, 2, 1.0),
    ]


def test_quality_is_precision_and_recall_of_what_the_sound_says(connection: duckdb.DuckDBPyConnection) -> None:
    found = rows(connection, "SELECT split, label, n_clips, n_heard, n_said, n_right, precision, recall FROM quality")
    assert found == [("test", "dog", 3, 0, 1, 0, 0.0, 0.0), ("test", "cat", 2, 2, 1, 1, 1.0, 0.5)]


def test_hearing_and_unheard_count_test_clips(connection: duckdb.DuckDBPyConnection) -> None:
    counts = "SELECT label, n_test_clips, n_with_sound, n_supported, n_right FROM hearing"
    assert rows(connection, counts) == [("dog", 3, 1, 0, 0), ("cat", 2, 2, 2, 1)]
    assert rows(connection, "SELECT label, mean_mass FROM unheard") == [("dog", 0.0)]


def test_outcomes_join_prediction_truth_sound_and_losses(connection: duckdb.DuckDBPyConnection) -> None:
    columns = (
        "method, clip_id, label, before, after, fused, right_before, right_after, right_fused, sound_says, "
        "steps, first_loss, last_loss"
    )
    assert rows(connection, f"SELECT {columns} FROM outcomes") == [
        ("audio", "turns", "cat", "dog", "cat", None, False, True, None, "cat", 2, 2.0, 1.5)
    ]


@pytest.mark.parametrize(
    "settings", [{}, {"related": "all"}, {"reduce": "mean"}, {"threshold": 0.3, "top_k": 3, "temperature": 0.5}]
)
def test_why_arrives_at_the_stored_scores_by_its_own_arithmetic(
    settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQL and numpy are two implementations: the contributions that count, combined by noisy-or, are the evidence."""
    monkeypatch.chdir(tmp_path)
    pets.make(tmp_path)
    sounds = [
        "Animal",
        "Domestic animals, pets",
        "Dog",
        "Bark",
        "Howl",
        "Cat",
        "Meow",
        "Purr",
        "Hiss",
        "Speech",
        "Music",
        "Growling",
    ]
    pets.write_labels(sounds)
    random = np.random.default_rng(3)
    clip_ids = [f"c{i}" for i in range(12)]
    pets.write_clips(clip_ids)
    pets.write_audio(dict.fromkeys(clip_ids, "ok"))
    pets.write_tags({c: (2 * random.standard_normal((2, len(sounds)))).tolist() for c in clip_ids})
    pairs = [
        (sound, c, round(float(random.uniform(0.1, 1)), 2)) for sound in sounds for c in (0, 1) if random.random() < 0.7
    ]
    pets.write_map(pairs)
    stored = pets.label(**settings)
    with connect("pets") as connection:
        kin = rows(connection, "SELECT count(*) FROM related_sounds")[0][0]
        assert (kin == 0) == (settings.get("related") == "all")
        dropped = 0
        for clip_id in clip_ids:
            scores = {"dog": 1.0, "cat": 1.0}
            for label, contribution, counts in connection.sql(
                f"SELECT label, contribution, counts FROM why('{clip_id}')"
            ).fetchall():
                scores[label] *= 1 - contribution if counts else 1
                dropped += not counts
            assert [1 - scores[name] for name in pets.CLASSES] == pytest.approx(stored[clip_id]["evidence"], abs=1e-6)
        assert (dropped > 0) == (settings.get("related") != "all")
