"""A data set of five clips that the tests of pseudo-labels and of SQL know: `pets`, tagged and mapped in a project root
of its own.
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from adapt.tables import parquet
from adapt.tables.files import sha256_file, sha256_text
from adapt.tables.schema import schema_of
from pipeline import pseudo_label
from tests.places import ROOT

CLASSES = ["dog", "cat"]
SOUNDS = ["Speech", "Meow", "Bark", "Growling"]  # in the tagger's order, not AudioSet's
LOUD, FAINT = 2.0, -6.0  # logits
PAIRS = [("Bark", 0, 1.0), ("Growling", 0, 0.5), ("Growling", 1, 0.2), ("Meow", 1, 1.0), ("Battle cry", 0, 1.0)]
STATUSES = {"barks": "ok", "broken": "failed", "mute": "silent", "talks": "ok", "turns": "truncated"}
TAGS = {
    "barks": [[FAINT, FAINT, LOUD, 1.0]],
    "talks": [[LOUD, FAINT, FAINT, FAINT]],
    "turns": [[FAINT, LOUD, FAINT, FAINT], [FAINT, FAINT, 0.0, FAINT]],
}
FOLDER = Path("cache/pets")
LABELS = Path("data/labels/ears.csv")


def make(root: Path) -> None:
    """Fill `root`, which must be the working directory."""
    FOLDER.mkdir(parents=True)
    for name in ("schema.sql", "views.sql"):
        shutil.copy(ROOT / "cache" / name, root / "cache")
    LABELS.parent.mkdir(parents=True)
    (LABELS.parent / "audioset_ontology.json").symlink_to(ROOT / "data/labels/audioset_ontology.json")
    (FOLDER / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    write_labels(SOUNDS)
    write_clips(list(STATUSES))
    write_audio({clip_id: status for clip_id, status in STATUSES.items() if status})
    write_tags(TAGS)
    write_map()


def made(factory: pytest.TempPathFactory, *steps: Callable[[], object]) -> Path:
    """A project root in which `pets` has been tagged and mapped, and then each of `steps` has run."""
    root = factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        make(root)
        for step in steps:
            step()
    return root


def enter(made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a project root into `folder`, which becomes the working directory."""
    shutil.copytree(made, folder, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(folder)
    return folder


def rewrite(path: Path, rows: pa.Table) -> None:
    """Write a file of the cache with other rows or metadata, whole and sealed."""
    with parquet.sealed(path, rows.schema) as file:
        file.write_table(rows)


def write_labels(sounds: list[str]) -> None:
    """The tagger's list: AudioSet's ids for sounds that it has, made-up ones for others."""
    with (ROOT / "data/labels/audioset.csv").open(encoding="utf-8", newline="") as file:
        mids = {row["display_name"]: row["mid"] for row in csv.DictReader(file)}
    with LABELS.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("index", "mid", "display_name"), *((i, mids.get(s, f"/x/{i}"), s) for i, s in enumerate(sounds))]
        )


def write_clips(clip_ids: list[str], label_ids: dict[str, int] | None = None) -> None:
    common = {"split": "test", "status": "ok", "content_sha256": "0" * 64}
    ids = {clip_id: (label_ids or {}).get(clip_id, 0) for clip_id in clip_ids}
    rows = [common | {"clip_id": c, "path": f"{c}.mp4", "label_id": i, "label": CLASSES[i]} for c, i in ids.items()]
    parquet.write_table(FOLDER / "clips.parquet", "clips", rows, {"classes_sha256": classes_sha256(CLASSES)})


def write_audio(statuses: dict[str, str]) -> None:
    common = {"sample_rate": 16000, "n_samples": 0, "cache_key": "k", "pcm": b"", "n_blocks": 0}
    columns = schema_of("audio").names
    rows = [
        {k: v for k, v in common.items() if k in columns} | {"clip_id": c, "status": status}
        for c, status in statuses.items()
    ]
    parquet.write_table(FOLDER / "audio/part-00000-of-00001.parquet", "audio", rows)


def write_tags(
    logits: dict[str, list[list[float]]], shard: str = "part-00000-of-00001.parquet", **changed: str
) -> None:
    rows = [
        {
            "clip_id": clip_id,
            "window_start_s": 5.0 * i,
            "padded_share": 0.0,
            "cache_key": sha256_text("t", "k"),
            "logits": window,
        }
        for clip_id, windows in logits.items()
        for i, window in enumerate(windows)
    ]
    made_by = {
        "tagger": "ears",
        "labels_file": LABELS.as_posix(),
        "labels_sha256": sha256_file(LABELS),
        "tagging": "t",
    } | changed
    parquet.write_table(FOLDER / "tags" / shard, "tags", rows, made_by | changed)


def write_map(
    pairs: list[tuple[str, int, float]] = PAIRS, classes: list[str] = CLASSES, necessary: tuple[str, ...] = ("Meow",)
) -> None:
    rows = [
        {"audio_id": i, "audio_label": sound, "label_id": label_id, "label": classes[label_id], "weight": weight,
         "necessary": sound in necessary, "reason": "made", "source": "test"}
        for i, (sound, label_id, weight) in enumerate(pairs)
    ]  # fmt: skip
    parquet.write_table(
        FOLDER / "label_map.parquet", "label_map", rows, {"classes_sha256": classes_sha256(classes), "mapper": "test"}
    )


def classes_sha256(classes: list[str]) -> str:
    return hashlib.sha256("\n".join(classes).encode()).hexdigest()


def label(**changed: object) -> dict[str, dict[str, object]]:
    """clip_id -> row, after running the stage pseudo_label."""
    pseudo_label.run(pseudo_label.Options(**({"dataset": "pets", "tagger": "ears"} | changed)))  # type: ignore[arg-type]
    rows = parquet.read_table(FOLDER / "pseudo_labels.parquet", "pseudo_labels").to_pylist()
    return {row["clip_id"]: row for row in rows}


def write_predictions(method: str = "audio") -> None:
    """One clip's way under a method: dog before, cat after, with two steps."""
    key = {
        "dataset": "pets",
        "backbone": "tanet",
        "run": method,
        "corruption": "gauss",
        "severity": 5,
        "order_seed": 0,
        "position": 0,
    }
    row = key | {"method": method, "fusion": "none", "clip_id": "turns", "label_id": 1, "before_id": 0, "after_id": 1,
    "fused_id": None, "steps": 2, "stop_reason": "agreed",
                 "gate": 0.5, "ms": 1.0}  # fmt: skip
    parquet.write_table(
        FOLDER / f"adapt/{method}/predictions.parquet",
        "predictions",
        [row],
        {"options": json.dumps({"method": method})},
    )
    steps = [key | {"step": i + 1, "loss": loss, "views_agree": True, "ms": 1.0} for i, loss in enumerate((2.0, 1.5))]
    parquet.write_table(FOLDER / f"adapt/{method}/traces.parquet", "traces", steps)
