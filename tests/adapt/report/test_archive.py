"""Archives of runs that the test writes: what adds up, what is refused, and that a table made of one is the cache's."""

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from adapt import command
from adapt.errors import CacheError
from adapt.report import archive, table
from adapt.report._archive import Archive
from adapt.tables import cache, classes, files, parquet
from tests import pets
from tests.adapt.report.runs import LABELS, TRUTH, Streams, write_clips, write_run

OUT = Path("data/results/tiny")
RIGHT, HALF = [0, 0, 1, 1], [0, 1, 1, 0]
SETTINGS = {"lr": 0.1}


def write(
    name: str, streams: Streams, checkpoint: str = "c" * 64, made: Mapping[str, str] | None = None, lr: float = 0.1,
    split: str = "test", **more: object,
) -> None:  # fmt: skip
    """What `python -m adapt` leaves behind, with its fingerprint."""
    write_run(name, streams, **more)  # type: ignore[arg-type]
    path = Path("cache/tiny/adapt") / name / "predictions.parquet"
    options = {
        "corruptions": sorted({c for _, c in streams}), "order_seeds": sorted({seed for seed, _ in streams}),
        "severity": 5, "split": split, "settings": {"lr": lr}, "video": {"frames": 4},
    }  # fmt: skip
    fingerprint = {
        "options": json.dumps(options, sort_keys=True), "code_sha256": "a" * 64, "checkpoint_sha256": checkpoint,
        "data_sha256": cache.data_sha256("tiny"), "statistics_sha256": "b" * 64, "libraries": "torch 2.9.0",
        "device": "cpu",
    }  # fmt: skip
    rows = pq.read_table(path)
    said = {f"earshot.{key}".encode(): value for key, value in (fingerprint | dict(made or {})).items()}
    known = {key: value for key, value in rows.schema.metadata.items() if key != parquet.SEAL.encode()}
    pets.rewrite(path, rows.replace_schema_metadata(known | said))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the clips of TRUTH, made once."""
    root = tmp_path_factory.mktemp("clips")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_clips(TRUTH)
    return root


@pytest.fixture
def here(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(clips, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(*names: str, **changes: object) -> dict[str, object]:
    return archive.run(archive.Options("tiny", str(OUT), names, **changes))  # type: ignore[arg-type]


def report(results: str = "", **changes: object) -> bytes:
    """The three files of a report of `source` and `audio`."""
    chosen: dict[str, object] = {"corruptions": ("gauss", "jpeg"), "against": ("source",), "results": results}
    table.run(table.Options("tiny", ("source", "audio"), **(chosen | changes)))  # type: ignore[arg-type]
    return b"".join(
        Path("cache/metrics/tiny", name).read_bytes() for name in ("report.md", "report.json", "accuracy.csv")
    )


def write_two(**changes: object) -> None:
    streams = {(seed, c): RIGHT if seed else HALF for seed in (0, 1) for c in ("clean", "gauss", "jpeg")}
    write("source", streams, **changes)  # type: ignore[arg-type]
    write("audio", streams | {(0, "gauss"): [0, None, 1, 1]}, fused=streams, **changes)  # type: ignore[arg-type]


def test_a_table_of_an_archive_is_that_of_the_cache_to_the_byte(here: Path) -> None:
    asked: list[dict[str, Any]] = [
        {}, {"corruptions": ("clean", "jpeg")}, {"order_seeds": (1,)}, {"against": ("audio+trusted", "source")},
    ]  # fmt: skip
    write_two()
    put()
    wanted = [report(**changes) for changes in asked]
    for name in ("clips", "pseudo_labels"):
        Path(f"cache/tiny/{name}.parquet").unlink()  # nothing but the archive is left
    shutil.rmtree("cache/tiny/adapt")
    assert [report(str(OUT), **changes) for changes in asked] == wanted
    assert len(set(wanted)) == len(asked)


def test_clips_of_several_classes_keep_their_mean_average_precision_alone(here: Path) -> None:
    streams: dict[tuple[int, str], list[int | None]] = {(0, "gauss"): [*HALF], (0, "jpeg"): [0, None, 1, 1]}
    path = Path("cache/tiny/clips.parquet")
    clips = [row | {"label_ids": [row["label_id"]]} for row in parquet.read_table(path, "clips").to_pylist()]
    known, sounds = {"classes_sha256": classes.sha256(LABELS)}, Path("cache/tiny/pseudo_labels.parquet")
    cache.write_table(path, "clips", clips, known)
    said = parquet.read_table(sounds, "pseudo_labels").to_pylist()
    cache.write_table(sounds, "pseudo_labels", said, known | {"clips_sha256": files.sha256_file(path)})
    write("source", streams, several=True)
    write("audio", streams, several=True)
    put()
    wanted = report()
    assert b"| mAP |" in wanted
    assert report(str(OUT)) == wanted
    assert "probs" not in pq.read_schema(OUT / "runs/source.parquet").names


def test_milliseconds_of_a_stream_are_the_mean_over_the_clips_that_were_read(here: Path) -> None:
    write("audio", {(0, "gauss"): [0, None, 1, 1]})
    path = Path("cache/tiny/adapt/audio/predictions.parquet")
    rows = [row | {"ms": ms} for row, ms in zip(cache.read_predictions(path), (10.0, 0.0, 20.0, 60.0), strict=True)]
    cache.write_table(path, "predictions", rows, parquet.provenance(path) | {})
    put()
    assert set(pq.read_table(OUT / "runs/audio.parquet")["mean_ms"].to_pylist()) == {30.0}


def test_other_runs_corruptions_and_orders_add_up(here: Path) -> None:
    write("source", {(0, "gauss"): HALF})
    assert put()["n_streams_added"] == 1
    write("audio", {(seed, c): HALF for seed in (0, 1) for c in ("gauss", "jpeg")})
    put("audio")
    write("source", {(1, "gauss"): RIGHT, (0, "jpeg"): RIGHT})  # in the cache it takes the first one's place
    put("source")
    write("source", {(1, "jpeg"): RIGHT})
    assert {name: n for name, n in put("source").items() if name != "bytes"} == {
        "n_runs": 1, "n_streams_added": 1, "n_streams_there": 0,
    }  # fmt: skip
    report(str(OUT))
    found = json.loads(Path("cache/metrics/tiny/report.json").read_text())
    assert (found["source"]["gauss"], found["source"]["jpeg"]) == (75.0, 100.0)  # gauss: 50 and 100
    assert found["audio"]["all"] == 50.0


def test_what_is_there_already_stays_as_it_is(here: Path) -> None:
    write_two()
    put()
    before = {path: path.read_bytes() for path in OUT.rglob("*.parquet")}
    assert put()["n_streams_added"] == 0
    assert {path: path.read_bytes() for path in OUT.rglob("*.parquet")} == before


def test_a_stream_of_another_sitting_replaces_the_one_there_only_if_asked_to(here: Path) -> None:
    write("source", {(0, "gauss"): HALF, (0, "jpeg"): HALF})
    put()
    write("source", {(0, "gauss"): RIGHT})
    before = (OUT / "runs/source.parquet").read_bytes()
    with pytest.raises(
        CacheError, match=r"source.parquet has a stream of gauss at severity 5 in order 0 already"
    ) as error:
        put()
    assert "\n" not in str(error.value)
    assert (OUT / "runs/source.parquet").read_bytes() == before
    put(replace=True)
    rows = pq.read_table(OUT / "runs/source.parquet").to_pylist()
    assert [row["after_id"] for row in rows] == [*RIGHT, *HALF]  # gauss, jpeg
    said = json.loads(parquet.provenance(OUT / "runs/source.parquet")["sittings"])
    assert [one["streams"] for one in said] == [[["jpeg", 5, 0]], [["gauss", 5, 0]]]


def test_an_archive_says_of_what_every_sitting_was_made(here: Path) -> None:
    write("source", {(0, "gauss"): HALF}, made={"capability": "avx512"})
    put()
    known = parquet.provenance(OUT / "runs/source.parquet")
    (made,) = [one["made"] for one in json.loads(known["sittings"])]
    assert made == {
        "options": made["options"], "code_sha256": "a" * 64, "checkpoint_sha256": "c" * 64, "device": "cpu",
        "data_sha256": cache.data_sha256("tiny"), "statistics_sha256": "b" * 64, "libraries": "torch 2.9.0",
        "capability": "avx512",
    }  # fmt: skip
    assert made["options"]["settings"] == {"lr": 0.1}
    assert known["checkpoint_sha256"] == parquet.provenance(OUT / "clips.parquet")["checkpoint_sha256"] == "c" * 64


def test_sittings_of_a_run_on_two_machines_add_up_with_a_warning(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    write("source", {(0, "gauss"): HALF})
    put()
    write("source", {(0, "jpeg"): HALF}, made={"libraries": "torch 2.10.0"})
    put()
    assert "source.parquet: its streams are of sittings that differ in libraries" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": "d" * 64}, "run source is of another checkpoint than data/results/tiny holds"),
        ({"lr": 0.2}, r"source.parquet has streams that were made otherwise \(settings.lr\): give another --out"),
        ({"made": {"code_sha256": "e" * 64}}, r"made otherwise \(code_sha256\)"),
        ({"made": {"statistics_sha256": "e" * 64}}, r"made otherwise \(statistics_sha256\)"),
        ({"made": {"data_sha256": "e" * 64}}, r"was made for another cache/tiny/.*: run `dvc repro adapt@source`"),
        ({"split": "train"}, r"made otherwise \(split\)"),
    ],
    ids=["checkpoint", "settings", "code", "statistics", "data", "split"],
)  # fmt: skip
def test_a_run_that_does_not_fit_the_archive_is_one_line_and_changes_nothing(
    changes: dict[str, object], message: str, here: Path
) -> None:
    write("source", {(0, "gauss"): HALF})
    put()
    before = {path: path.read_bytes() for path in OUT.rglob("*") if path.is_file()}
    write("source", {(0, "jpeg"): HALF}, **changes)  # type: ignore[arg-type]
    with pytest.raises(CacheError, match=message) as error:
        put()
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in OUT.rglob("*") if path.is_file()} == before


def test_two_runs_of_unlike_checkpoints_are_refused_before_there_is_an_archive(here: Path) -> None:
    write("audio", {(0, "gauss"): HALF})
    write("source", {(0, "gauss"): HALF}, checkpoint="d" * 64)
    with pytest.raises(CacheError, match="run source is of another checkpoint"):
        put()
    assert not OUT.exists()


def test_other_clips_are_refused(here: Path) -> None:
    write("source", {(0, "gauss"): HALF})
    put()
    write_clips(TRUTH | {"test/chess/2": 1})
    write("audio", {(0, "gauss"): HALF})
    with pytest.raises(CacheError, match="run audio is of other clips or sounds than data/results/tiny holds"):
        put("audio")


def test_rows_with_other_labels_than_the_clips_are_refused(here: Path) -> None:
    write("source", {(0, "gauss"): HALF}, truth=TRUTH | {"test/chess/0": 0})
    with pytest.raises(
        CacheError, match="run source scores clip test/chess/0 as of class 0, which clips.parquet does not"
    ):
        put()
    assert not OUT.exists()


@pytest.mark.parametrize("name", ["norm", "bare"])
def test_a_run_that_is_missing_or_says_not_what_it_was_made_of_is_one_line(name: str, here: Path) -> None:
    write_run("bare", {(0, "gauss"): HALF})
    message = {
        "norm": "adapt/norm/predictions.parquet is missing",
        "bare": "bare/predictions.parquet does not say of which options it was made",
    }
    with pytest.raises(CacheError, match=message[name]):
        put(name)


def test_a_cache_without_a_finished_run_is_one_line(here: Path) -> None:
    with pytest.raises(CacheError, match="cache/tiny/adapt has no finished run: run `dvc repro adapt`"):
        put()


def test_a_run_of_another_archive_put_among_an_archives_runs_is_refused(here: Path) -> None:
    write("source", {(0, c): HALF for c in ("gauss", "jpeg")})
    put()
    write("audio", {(0, c): HALF for c in ("gauss", "jpeg")}, checkpoint="d" * 64)
    archive.run(archive.Options("tiny", "data/results/other", ("audio",)))
    shutil.copy("data/results/other/runs/audio.parquet", OUT / "runs")
    with pytest.raises(CacheError, match=r"runs/audio.parquet is of another checkpoint than data/results/tiny holds"):
        report(str(OUT))


@pytest.mark.parametrize("name", ["clips.parquet", "runs/source.parquet"])
def test_a_byte_that_changes_anywhere_in_an_archive_is_an_error(name: str, here: Path) -> None:
    write("source", {(0, "gauss"): HALF})
    put()
    whole, chosen, opened = (OUT / name).read_bytes(), random.Random(7), Archive(OUT, "tiny")
    for i in chosen.sample(range(len(whole)), 200):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << chosen.randrange(8)
        (OUT / name).write_bytes(damaged)
        with pytest.raises(CacheError, match="is damaged .*: restore it from git, or archive the runs anew"):
            opened.rows("source") if name.startswith("runs/") else Archive(OUT, "tiny")


def test_a_file_that_was_cut_or_is_missing_is_an_error(here: Path) -> None:
    write_two()
    put()
    path = OUT / "runs/audio.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CacheError, match="audio.parquet is damaged"):
        report(str(OUT))
    path.unlink()
    with pytest.raises(CacheError, match=r"audio.parquet is missing: choose other runs \(source are there\)"):
        report(str(OUT))
    (OUT / "clips.parquet").unlink()
    for reader in (lambda: report(str(OUT)), put):
        with pytest.raises(CacheError, match="clips.parquet is missing: restore it from git"):
            reader()


def test_a_list_of_other_classes_is_refused(here: Path) -> None:
    write_two()
    put()
    (OUT / "labels.txt").write_text(classes.text_of(LABELS[::-1]))
    with pytest.raises(CacheError, match="labels.txt lists other classes than .*clips.parquet"):
        report(str(OUT))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"results": "data/results/none"}, "none is no folder: make it by `python -m adapt.archive --dataset tiny"),
        ({"split": "val"}, r"has no clip of split 'val': choose another --split \(test is there\)"),
        ({"order_seeds": (7,)}, r"source.parquet has no stream of gauss at severity 5 in order 7 \(it has clean 0"),
    ],
)  # fmt: skip
def test_a_table_that_an_archive_cannot_give_is_one_line(changes: dict[str, object], message: str, here: Path) -> None:
    write_two()
    put()
    with pytest.raises(CacheError, match=message):
        report(**({"results": str(OUT)} | changes))  # type: ignore[arg-type]


def test_an_archive_of_another_data_set_is_refused(here: Path) -> None:
    write_two()
    put()
    with pytest.raises(CacheError, match="data/results/tiny is an archive of tiny: give --dataset tiny"):
        table.run(table.Options("other", ("source",), ("gauss",), results=str(OUT)))


def test_runs_of_a_folder_stay_in_one(here: Path) -> None:
    write("ablation/full", {(0, "gauss"): HALF}, method="audio")
    put(folder="ablation")
    assert [str(path.relative_to(OUT)) for path in OUT.rglob("*.parquet")].count("runs/ablation/full.parquet") == 1
    done = table.run(table.Options("tiny", ("full",), ("gauss",), folder="ablation", results=str(OUT)))
    assert done["top1"] == {"full": 50.0}


def test_an_upper_bound_is_marked_in_an_archive(here: Path) -> None:
    write("oracle_gate", {(0, "gauss"): RIGHT}, sees_labels=True)
    put()
    done = table.run(table.Options("tiny", ("oracle_gate",), ("gauss",), results=str(OUT)))
    assert done["top1"] == {"oracle_gate (sees labels)": 100.0}


def test_an_archive_made_before_a_column_was_added_is_read_without_it(here: Path) -> None:
    write_two()
    put()
    wanted = report(str(OUT))
    schema = Path("cache/schema.sql")
    schema.write_text(
        schema.read_text().replace("    fused_mean_ap  DOUBLE", "    added DOUBLE,\n    fused_mean_ap  DOUBLE")
    )
    assert report(str(OUT)) == wanted
    schema.write_text(schema.read_text().replace("added DOUBLE", "added DOUBLE NOT NULL"))
    with pytest.raises(CacheError, match="runs/source.parquet: a row breaks the contract of archived_predictions"):
        report(str(OUT))


def test_the_command_prints_one_json_line_or_one_line_of_what_is_wrong(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("source", {(0, "gauss"): HALF})
    words = ["--dataset", "tiny", "--out", str(OUT), "--methods"]
    command.main(archive.Options, archive.run, prog="adapt.archive", args=[*words, "source"])
    assert json.loads(capsys.readouterr().out)["n_streams_added"] == 1
    with pytest.raises(SystemExit, match="1"):
        command.main(archive.Options, archive.run, prog="adapt.archive", args=[*words, "norm"])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("adapt.archive: cache/tiny/adapt/norm/predictions.parquet is missing")
    assert printed.err.count("\n") == 1


def test_an_archive_of_real_size_is_below_100_kb_a_run(here: Path) -> None:
    """200 clips, 13 corruptions, 3 orders; answers alone and fused are right in half of the cases, else any of ten."""
    random_ = np.random.default_rng(0)
    truth = {f"test/class_{i // 20}/class_{i // 20}_test_{i % 20:03d}": i % 2 for i in range(200)}
    write_clips(truth)
    corruptions = ["clean", *(f"corruption_{i}" for i in range(12))]

    def answers() -> Streams:
        drawn = {}
        for stream in ((seed, c) for seed in range(3) for c in corruptions):
            ids, is_right = random_.integers(0, 10, 200), random_.random(200) < 0.5
            drawn[stream] = np.where(is_right, list(truth.values()), ids).tolist()
        return drawn

    write("audio", answers(), fused=answers(), truth=truth)
    put()
    assert (OUT / "runs/audio.parquet").stat().st_size < 100_000
