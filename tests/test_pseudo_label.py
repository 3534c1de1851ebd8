"""Pseudo-labels: the arithmetic against hand-computed cases, and a row for every clip whatever its sound."""
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import cache, pseudo_label, stage
from pipeline.errors import CacheError, MapperError
from pipeline.mappers import classes_sha256

PROJECT = Path(__file__).parent.parent
CLASSES = ["dog", "cat"]
SOUNDS = ["Speech", "Meow", "Bark", "Growling"]  # in the tagger's order, not AudioSet's
LOUD, FAINT = 2.0, -6.0  # logits
PAIRS = [("Bark", 0, 1.0), ("Growling", 0, 0.5), ("Growling", 1, 0.2), ("Meow", 1, 1.0), ("Battle cry", 0, 1.0)]


def sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root in which a data set `pets` of five clips has been tagged and mapped."""
    (tmp_path / "cache/pets").mkdir(parents=True)
    shutil.copy(PROJECT / "cache/schema.sql", tmp_path / "cache")
    (tmp_path / "data/labels").mkdir(parents=True)
    (tmp_path / "data/labels/ears.csv").write_text("index,mid,display_name\n" + "".join(f"{i},/m/{i},{s}\n" for i, s in enumerate(SOUNDS)))
    (tmp_path / "cache/pets/labels.txt").write_text("dog\ncat\n")
    monkeypatch.chdir(tmp_path)
    statuses = {"barks": "ok", "broken": None, "mute": "silent", "talks": "ok", "turns": "truncated"}
    write_clips(list(statuses))
    write_audio({clip_id: status for clip_id, status in statuses.items() if status})
    turns = [[FAINT, LOUD, FAINT, FAINT], [FAINT, FAINT, 0.0, FAINT]]
    write_tags({"barks": [[FAINT, FAINT, LOUD, 1.0]], "talks": [[LOUD, FAINT, FAINT, FAINT]], "turns": turns})
    write_map()
    return tmp_path


def write_clips(clip_ids: list[str]) -> None:
    common = {"split": "test", "label_id": 0, "label": "dog", "status": "ok", "content_sha256": "0" * 64}
    cache.write_table(Path("cache/pets/clips.parquet"), "clips", [common | {"clip_id": c, "path": f"{c}.mp4"} for c in clip_ids])


def write_audio(statuses: dict[str, str]) -> None:
    common = {"sample_rate": 16000, "n_samples": 0, "n_blocks": 0, "cache_key": "k"}
    rows = [common | {"clip_id": c, "status": status} for c, status in statuses.items()]
    cache.write_table(Path("cache/pets/audio/part-00000-of-00001.parquet"), "audio", rows)


def write_tags(logits: dict[str, list[list[float]]]) -> None:
    rows = [
        {"clip_id": clip_id, "window_start_s": 5.0 * i, "padded_share": 0.0, "cache_key": "k", "logits": window}
        for clip_id, windows in logits.items()
        for i, window in enumerate(windows)
    ]
    labels = Path("data/labels/ears.csv")
    made_by = {"tagger": "ears", "labels_file": labels.as_posix(), "labels_sha256": cache.sha256_file(labels)}
    cache.write_table(Path("cache/pets/tags/part-00000-of-00001.parquet"), "tags", rows, made_by)


def write_map(classes: list[str] = CLASSES, pairs: list[tuple[str, int, float]] = PAIRS) -> None:
    rows = [
        {"audio_id": i, "audio_label": sound, "label_id": label_id, "label": classes[label_id], "weight": weight,
         "necessary": False, "reason": "made", "source": "test"}
        for i, (sound, label_id, weight) in enumerate(pairs)
    ]  # fmt: skip
    cache.write_table(Path("cache/pets/label_map.parquet"), "label_map", rows, {"classes_sha256": classes_sha256(classes), "mapper": "test"})


def run(**changed: object) -> dict[str, dict[str, object]]:
    """clip_id -> row, after running the stage."""
    pseudo_label.run(pseudo_label.Options(**({"dataset": "pets", "tagger": "ears"} | changed)))  # type: ignore[arg-type]
    rows = cache.read_table(Path("cache/pets/pseudo_labels.parquet"), "pseudo_labels").to_pylist()
    return {row["clip_id"]: row for row in rows}


HEARD = np.array([[0.5, 0.8]])  # two sounds
WEIGHTS = np.array([[0.6, 0.0], [0.5, 1.0]])  # sound x class


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        ("noisy_or", [1 - (1 - 0.3) * (1 - 0.4), 0.8]),  # 0.58: either sound may support class 0
        ("max", [0.4, 0.8]),
        ("sum", [0.7, 0.8]),
    ],
)
def test_evidence_is_what_hand_computation_gives(combine: str, expected: list[float]) -> None:
    found = pseudo_label.evidence(HEARD, WEIGHTS, combine=combine)
    np.testing.assert_allclose(found.s, [expected])
    np.testing.assert_allclose(found.q, [np.array(expected) / sum(expected)])
    np.testing.assert_allclose(found.mass, [1 - (1 - 0.3) * (1 - 0.8)])  # 0.86: each sound by its best class


def test_a_sum_of_evidence_stays_a_share() -> None:
    found = pseudo_label.evidence(np.array([[0.9, 0.9]]), np.array([[1.0], [1.0]]), combine="sum")
    assert found.s.tolist() == [[1.0]]


def test_temperature_sharpens_and_does_not_lose_faint_evidence() -> None:
    cold = pseudo_label.evidence(HEARD, WEIGHTS, combine="max", temperature=0.5)
    np.testing.assert_allclose(cold.q, [[0.2, 0.8]])  # 0.4^2 : 0.8^2
    faint = pseudo_label.evidence(np.array([[1e-9, 2e-9]]), np.eye(2), threshold=0, temperature=0.01)
    np.testing.assert_allclose(faint.q, [[0.0, 1.0]], atol=1e-12)


def test_only_the_loudest_sounds_above_the_threshold_count() -> None:
    probabilities, weights = np.array([[0.9, 0.8, 0.05]]), np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(pseudo_label.evidence(probabilities, weights, threshold=0.1).s, [[0.8, 0.0]])
    np.testing.assert_allclose(pseudo_label.evidence(probabilities, weights, threshold=0.01).s, [[0.8, 0.05]])
    assert pseudo_label.evidence(probabilities, weights, top_k=1).mass.tolist() == [0.0]


@pytest.mark.parametrize(("reduce", "expected"), [("max", [0.5, 0.5]), ("mean", [(0.5 + sigmoid(-1)) / 2, (0.5 + sigmoid(-3)) / 2])])
def test_windows_are_reduced_on_probabilities(reduce: str, expected: list[float]) -> None:
    logits, clip_index = np.array([[9.0, 9.0], [0.0, -3.0], [-1.0, 0.0]]), np.array([0, 1, 1])
    np.testing.assert_allclose(pseudo_label.clip_probabilities(logits, clip_index, 2, reduce)[1], expected)


def test_a_barking_clip_is_a_dog_and_says_which_sounds_say_so(project: Path) -> None:
    row = run()["barks"]
    bark, growl = sigmoid(LOUD), sigmoid(1.0)
    dog, cat = 1 - (1 - bark) * (1 - 0.5 * growl), 0.2 * growl
    assert row["evidence"] == pytest.approx([dog, cat], rel=1e-6)
    assert row["probs"] == pytest.approx([dog / (dog + cat), cat / (dog + cat)], rel=1e-6)
    assert row["mass"] == pytest.approx(dog)
    assert row["top_label"] == "dog"
    causes = row["causes"]
    assert isinstance(causes, list)
    assert [(c["sound"], c["weight"]) for c in causes] == [("Bark", 1.0), ("Growling", 0.5)]
    assert causes[0]["probability"] == pytest.approx(bark)


@pytest.mark.parametrize(("clip_id", "status"), [("mute", "silent"), ("talks", "ok"), ("broken", "failed")])
def test_a_clip_whose_sound_says_nothing_is_uniform_with_mass_0(clip_id: str, status: str, project: Path) -> None:
    row = run()[clip_id]
    assert row == {"clip_id": clip_id, "status": status, "probs": [0.5, 0.5], "evidence": [0.0, 0.0], "mass": 0.0, "top_label": None, "causes": []}


def test_a_truncated_clip_counts_with_what_was_heard_of_it(project: Path) -> None:
    row = run()["turns"]
    assert (row["status"], row["top_label"]) == ("truncated", "cat")
    assert row["evidence"] == pytest.approx([0.5, sigmoid(LOUD)], rel=1e-6)  # the loudest window of each sound


def test_at_most_five_causes_are_kept_strongest_first() -> None:
    probabilities, weights = np.linspace(0.2, 0.9, 8)[None], np.ones((8, 1))
    found = pseudo_label.evidence(probabilities, weights)
    row = pseudo_label._heard_row(0, found, weights, list("abcdefgh"), ["only"])
    causes = row["causes"]
    assert isinstance(causes, list)
    assert [cause["sound"] for cause in causes] == ["h", "g", "f", "e", "d"]


def test_a_second_run_writes_the_same_bytes(project: Path) -> None:
    run()
    before = Path("cache/pets/pseudo_labels.parquet").read_bytes()
    run()
    assert Path("cache/pets/pseudo_labels.parquet").read_bytes() == before


def test_a_data_set_without_any_sound_is_uniform(project: Path) -> None:
    write_audio(dict.fromkeys(("barks", "mute", "talks", "turns"), "no_track"))
    write_tags({})
    assert {row["mass"] for row in run().values()} == {0.0}


def test_another_list_of_sounds_than_the_tags_were_made_with_is_an_error(project: Path) -> None:
    labels = Path("data/labels/ears.csv")
    labels.write_text(labels.read_text().replace("Bark", "Woof"))
    with pytest.raises(CacheError, match="another list of sounds than data/labels/ears.csv"):
        run()


def test_another_tagger_than_the_tags_were_made_by_is_an_error(project: Path) -> None:
    with pytest.raises(CacheError, match="made by the tagger 'ears', not 'nose': run `dvc repro tag`"):
        run(tagger="nose")


def test_a_label_map_for_another_class_order_is_an_error(project: Path) -> None:
    write_map(["cat", "dog"])
    with pytest.raises(CacheError, match="another list of classes than cache/pets/labels.txt: run `dvc repro map_labels`"):
        run()


def test_a_clip_with_sound_that_was_never_tagged_is_an_error(project: Path) -> None:
    write_tags({"barks": [[0.0] * 4]})
    with pytest.raises(CacheError, match="lacks 2 clips that have sound, first 'talks': run `dvc repro tag`"):
        run()


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.0), ("temperature", float("nan")), ("threshold", 1.5), ("top_k", 0)])
def test_a_setting_out_of_range_names_itself(name: str, value: float, project: Path) -> None:
    with pytest.raises(MapperError, match=name):
        run(**{name: value})


def test_an_unknown_way_to_combine_is_wrong_usage(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        stage.main(pseudo_label.Options, pseudo_label.run, prog="p", args=["--dataset", "pets", "--tagger", "ears", "--combine", "avg"])
    assert stop.value.code == 2
    assert "noisy_or" in capsys.readouterr().err
