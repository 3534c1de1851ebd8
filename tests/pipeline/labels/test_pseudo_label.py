"""The stage pseudo_label: a row for every clip whatever its sound, shard by shard, and one clear line where tables do
not fit.
"""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from adapt.tables import parquet
from adapt.tables.files import sha256_file, sha256_text
from pipeline import pseudo_label
from pipeline.sql import tagged
from tests import pets
from tests.pets import FAINT, FOLDER, LABELS, LOUD, label

SHARD = "tags/part-00000-of-00001.parquet"


def sigmoid(logit: float) -> float:
    return float(1 / (1 + np.exp(-logit)))


def test_a_barking_clip_is_a_dog_and_says_which_sounds_say_so(project: Path) -> None:
    row = label()["barks"]
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


@pytest.mark.parametrize(
    ("clip_id", "status", "no_meow"),
    [("mute", "silent", 0), ("talks", "ok", 1 - sigmoid(FAINT)), ("broken", "failed", 0)],
)
def test_a_clip_whose_sound_says_nothing_is_uniform_with_mass_0(
    clip_id: str, status: str, no_meow: float, project: Path
) -> None:
    row = label()[clip_id]
    assert row.pop("absent") == pytest.approx([0.0, no_meow], rel=1e-6)  # only what was listened to can lack a sound
    assert row == {
        "clip_id": clip_id,
        "status": status,
        "probs": [0.5, 0.5],
        "evidence": [0.0, 0.0],
        "mass": 0.0,
        "top_label": None,
        "causes": [],
    }


def test_a_truncated_clip_counts_with_what_was_heard_of_it(project: Path) -> None:
    row = label()["turns"]
    assert (row["status"], row["top_label"]) == ("truncated", "cat")
    assert row["evidence"] == pytest.approx([0.5, sigmoid(LOUD)], rel=1e-6)  # the loudest window of each sound
    assert row["absent"] == pytest.approx([0.0, 1 - sigmoid(LOUD)], rel=1e-6)


def test_windows_can_be_averaged(project: Path) -> None:
    bark, meow, growl = (sigmoid(FAINT) + 0.5) / 2, (sigmoid(LOUD) + sigmoid(FAINT)) / 2, sigmoid(FAINT)
    expected = [1 - (1 - bark) * (1 - 0.5 * growl), 1 - (1 - meow) * (1 - 0.2 * growl)]
    assert label(reduce="mean", threshold=0.0)["turns"]["evidence"] == pytest.approx(expected, rel=1e-6)


def test_a_sound_and_its_parent_count_once_unless_all_related_sounds_shall_count(project: Path) -> None:
    """In the ontology Dog is the parent of Bark."""
    pets.write_labels(["Speech", "Meow", "Bark", "Dog"])
    pets.write_tags({"barks": [[FAINT, FAINT, LOUD, 1.0]], "talks": [[FAINT] * 4], "turns": [[FAINT] * 4]})
    pets.write_map([("Bark", 0, 1.0), ("Dog", 0, 1.0), ("Meow", 1, 1.0)])
    assert label()["barks"]["mass"] == pytest.approx(sigmoid(LOUD))
    assert label(related="all")["barks"]["mass"] == pytest.approx(1 - (1 - sigmoid(LOUD)) * (1 - sigmoid(1.0)))


def test_a_second_run_writes_the_same_bytes(project: Path) -> None:
    label()
    before = (FOLDER / "pseudo_labels.parquet").read_bytes()
    label()
    assert (FOLDER / "pseudo_labels.parquet").read_bytes() == before
    assert {path.name for path in FOLDER.iterdir()} == {
        ".pseudo_label.lock",
        "audio",
        "clips.parquet",
        "label_map.parquet",
        "labels.txt",
        "pseudo_labels.parquet",
        "tags",
    }


def test_clips_may_lie_in_any_shard_and_blocks_may_end_anywhere(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = label()
    (FOLDER / SHARD).unlink()
    for i, clip_id in enumerate(("turns", "barks", "talks")):
        pets.write_tags({clip_id: pets.TAGS[clip_id], f"gone{i}": [[LOUD] * 4]}, f"part-{i:05d}-of-00003.parquet")
    monkeypatch.setattr(tagged, "WINDOWS_AT_ONCE", 4)
    monkeypatch.setattr(pseudo_label, "CLIPS_AT_ONCE", 2)
    assert label() == at_once
    assert list(at_once) == sorted(at_once)


def test_memory_does_not_grow_with_the_number_of_shards(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six shards of 300 clips with 400 sounds: their probabilities at once would be 5.8 MB, those of one shard are 1
    MB.
    """
    monkeypatch.setattr(tagged, "WINDOWS_AT_ONCE", 300)
    monkeypatch.setattr(pseudo_label, "CLIPS_AT_ONCE", 300)
    pets.write_labels([*pets.SOUNDS, *(f"sound {i}" for i in range(396))])
    made_by = {
        "tagger": "ears", "tagging": "t", "labels_file": LABELS.as_posix(), "labels_sha256": sha256_file(LABELS)
    }  # fmt: skip
    keys = [sha256_text("t", "k")] * 300
    (FOLDER / SHARD).unlink()
    offsets, zeros, random = (
        pa.array(range(0, 120_001, 400), pa.int32()),
        pa.array(np.zeros(300)),
        np.random.default_rng(0),
    )
    peaks = []
    for shard in range(6):
        logits = pa.ListArray.from_arrays(offsets, pa.array(random.standard_normal(120_000).astype(np.float32)))
        ids = [f"c{300 * shard + i:05d}" for i in range(300)]
        with parquet.Writer(FOLDER / f"tags/part-{shard:05d}.parquet", "tags", made_by) as writer:
            writer.add(
                pa.table(
                    {
                        "clip_id": ids,
                        "window_start_s": zeros,
                        "padded_share": zeros,
                        "cache_key": keys,
                        "logits": logits,
                    }
                )
            )
        if shard in (0, 5):
            clip_ids = [f"c{i:05d}" for i in range(300 * (shard + 1))]
            pets.write_clips(clip_ids)
            pets.write_audio(dict.fromkeys(clip_ids, "ok"))
            tracemalloc.start()
            pseudo_label.run(pseudo_label.Options("pets", "ears", related="all"))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 1_500_000


def test_a_data_set_without_any_sound_is_uniform(project: Path) -> None:
    pets.write_audio(dict.fromkeys(pets.STATUSES, "no_track"))
    pets.write_tags({})
    assert {row["mass"] for row in label().values()} == {0.0}
    (FOLDER / SHARD).unlink()  # a stage that had nothing to write leaves an empty folder
    assert {row["mass"] for row in label().values()} == {0.0}
