"""query: the cache answers SQL, and nothing else does."""
import json
import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import cache, query
from pipeline.errors import CacheError, QueryError
from tests.sounds import PROJECT, make_project

LABELS = ["drum", "flute", "moth"]
FIRST_SOUNDS = ["Speech", "Child speech, kid speaking", "Conversation"]  # of data/labels/yamnet.csv


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path))
    return tmp_path


def write_clips() -> None:
    rows = [
        {"clip_id": f"test/{label}/{i}", "path": f"test/{label}/{i}.mp4", "split": "test", "label_id": label_id, "label": label, "status": "ok",
         "duration_s": 3.0, "n_frames": 48, "content_sha256": "0" * 64, "error": None}
        for label_id, label in enumerate(LABELS) for i in range(2)
    ]  # fmt: skip
    cache.write_table(Path("cache/tiny/clips.parquet"), "clips", rows)


def write_tags() -> None:
    """Two windows of one clip: `Speech` is certain in the second, `Conversation` as likely as not in both."""
    labels = Path("data/labels/yamnet.csv")
    rows = [
        {"clip_id": "test/drum/0", "window_start_s": start, "padded_share": 0.0, "cache_key": "k", "logits": [speech, -4.0, 0.0]}
        for start, speech in ((0.0, -1.0), (5.0, 30.0))
    ]  # fmt: skip
    provenance = {"labels_file": labels.as_posix(), "labels_sha256": cache.sha256_file(labels)}
    cache.write_table(Path("cache/tiny/tags/part-00000-of-00001.parquet"), "tags", rows, provenance)


def write_pseudo_labels() -> None:
    """Drums are heard as drums, one flute as a drum, moths not at all."""
    evidence = {"test/drum/0": [0.9, 0.0, 0.0], "test/drum/1": [0.8, 0.1, 0.0], "test/flute/0": [0.6, 0.5, 0.0], "test/flute/1": [0.0, 0.7, 0.0]}
    rows = [
        {"clip_id": f"test/{label}/{i}", "status": "ok" if (heard := evidence.get(f"test/{label}/{i}")) else "silent",
         "probs": [1 / 3] * 3, "evidence": heard or [0.0] * 3, "mass": max(heard or [0.0]),
         "top_label": LABELS[heard.index(max(heard))] if heard else None,
         "causes": [{"sound": "Drum", "probability": 0.9, "weight": 1.0}] if heard else []}
        for label in LABELS for i in range(2)
    ]  # fmt: skip
    cache.write_table(Path("cache/tiny/pseudo_labels.parquet"), "pseudo_labels", rows)


def write_predictions(method: str) -> None:
    row = {"dataset": "tiny", "backbone": "tanet", "method": method, "corruption": "gauss", "severity": 5, "order_seed": 0, "position": 0,
           "clip_id": "test/drum/0", "label_id": 0, "before_id": 1, "after_id": 0, "fused_id": None, "steps": 1, "stop_reason": "none",
           "gate": None, "ms": 1.0}  # fmt: skip
    cache.write_table(Path(f"cache/tiny/adapt/{method}/predictions.parquet"), "predictions", [row])


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    query.main(["tiny", *arguments])
    return capsys.readouterr().out


def test_every_table_of_the_contract_can_be_asked_and_every_view_has_its_stage() -> None:
    tables = set(re.findall(r"CREATE TABLE (\w+)", (PROJECT / "cache/schema.sql").read_text()))
    views = set(re.findall(r"CREATE VIEW (\w+)", (PROJECT / "cache/views.sql").read_text()))
    assert tables == set(query.FILES)
    assert query.STAGES.keys() == tables | views | {"tagger_labels"}


def test_a_sounds_probability_is_that_of_its_loudest_window(project: Path) -> None:
    write_tags()
    found = query.connect("tiny").sql("SELECT sound, probability FROM sounds ORDER BY probability DESC").fetchall()
    assert [sound for sound, _ in found] == [FIRST_SOUNDS[0], FIRST_SOUNDS[2], FIRST_SOUNDS[1]]
    assert [probability for _, probability in found] == pytest.approx([1.0, 0.5, 1 / (1 + math.exp(4))])  # sigmoids of 30, 0, -4


def test_disagreements_are_the_clips_whose_sound_speaks_for_another_class(project: Path) -> None:
    write_clips()
    write_pseudo_labels()
    found = query.connect("tiny").sql("SELECT clip_id, label, top_label, mass FROM disagreements").fetchall()
    assert found == [("test/flute/0", "flute", "drum", 0.6)]


def test_unheard_classes_are_those_no_test_clip_has_evidence_for(project: Path) -> None:
    write_clips()
    write_pseudo_labels()
    connection = query.connect("tiny")
    assert connection.sql("SELECT label, n_test_clips, n_with_sound FROM unheard").fetchall() == [("moth", 2, 0)]
    hearing = connection.sql("SELECT label, n_supported, n_right, mean_mass FROM hearing").fetchall()
    assert hearing == [("drum", 2, 2, pytest.approx(0.85)), ("flute", 2, 1, pytest.approx(0.65)), ("moth", 0, 0, 0.0)]


def test_predictions_of_all_methods_are_one_table(project: Path) -> None:
    write_predictions("source")
    write_predictions("audio")
    assert query.connect("tiny").sql("SELECT method FROM predictions ORDER BY method").fetchall() == [("audio",), ("source",)]


def test_a_stage_that_had_nothing_to_write_leaves_an_empty_table(project: Path) -> None:
    Path("cache/tiny/tags").mkdir(parents=True)
    connection = query.connect("tiny")
    assert connection.sql("SELECT count(*) FROM tags").fetchall() == [(0,)]
    assert connection.sql("SELECT * FROM sounds").fetchall() == []


@pytest.mark.parametrize(("view", "name"), [("tags", "tag"), ("sounds", "tag"), ("Disagreements", "pseudo_label"), ("predictions", "adapt")])
def test_a_table_that_is_not_made_yet_names_the_stage_to_run(project: Path, capsys: pytest.CaptureFixture[str], view: str, name: str) -> None:
    write_clips()
    with pytest.raises(SystemExit, match="1"):
        query.main(["tiny", f"SELECT * FROM {view}"])
    assert capsys.readouterr().err == f"pipeline.query: tiny has no {view} yet: run `dvc repro {name}` first\n"


def test_a_data_set_without_tables_names_those_there_are(project: Path) -> None:
    write_clips()
    with pytest.raises(QueryError, match=r"cache/none has no tables: run `dvc repro`, or ask one of \['tiny'\]"):
        query.connect("none")


def test_a_file_of_another_contract_is_refused(project: Path) -> None:
    write_clips()
    path = Path("cache/tiny/clips.parquet")
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(CacheError, match="does not follow table clips of cache/schema.sql: run `dvc repro scan`"):
        query.connect("tiny")


def test_tags_of_another_label_list_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tags()
    Path("data/labels").unlink()
    Path("data/labels").mkdir()
    Path("data/labels/yamnet.csv").write_text("index,mid,display_name\n0,/m/1,Other\n")
    with pytest.raises(CacheError, match="yamnet.csv is not the list that the tags were made with: run `dvc repro tag`"):
        query.connect("tiny")


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", "Parser Error: syntax error"),
        ("SELECT nonesuch FROM clips", 'Binder Error: Referenced column "nonesuch" not found'),
        ("SELECT * FROM nonesuch", "Table with name nonesuch does not exist"),
        ("SELECT error('at run time') FROM clips", "at run time"),
    ],
)
def test_a_wrong_query_is_one_line_and_exit_1(project: Path, capsys: pytest.CaptureFixture[str], sql: str, message: str) -> None:
    write_clips()
    with pytest.raises(SystemExit, match="1"):
        query.main(["tiny", sql])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "sql",
    [
        "COPY clips TO 'cache/tiny/clips.parquet' (FORMAT parquet, USE_TMP_FILE false)",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'cache/tiny/clips.parquet' (FORMAT parquet, USE_TMP_FILE false)",
        "CREATE TABLE t (a INTEGER)",
        "SET enable_external_access = true",
        "ATTACH 'other.duckdb'",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_text('outside.txt')",
        "SELECT * FROM 'outside.txt'",
        "SELECT * FROM glob('*')",
    ],
)
def test_nothing_is_written_and_nothing_outside_the_cache_is_read(project: Path, sql: str) -> None:
    write_clips()
    Path("outside.txt").write_text("secret\n")
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(QueryError):
        query.run(query.Options("tiny", sql))
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_csv_has_a_header_and_json_in_its_nested_values(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips()
    text = ask(capsys, "SELECT 'a,b' AS text, NULL AS nothing, [1, 2] AS list, {'x': 0.5::DOUBLE} AS struct", "--format", "csv")
    assert text == 'text,nothing,list,struct\n"a,b",,"[1, 2]","{""x"": 0.5}"\n'


def test_json_is_a_list_of_rows(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips()
    text = ask(capsys, "SELECT clip_id, n_frames, 'é' AS accent, '\\xAB'::BLOB AS bytes FROM clips ORDER BY 1 LIMIT 1", "--format", "json")
    assert json.loads(text) == [{"clip_id": "test/drum/0", "n_frames": 48, "accent": "é", "bytes": "ab"}]


def test_two_columns_of_one_name_are_not_lost_in_json(project: Path) -> None:
    write_clips()
    with pytest.raises(QueryError, match=r"columns \['a'\] stand twice in the result: name them apart with AS"):
        query.run(query.Options("tiny", "SELECT 1 AS a, 2 AS a", format="json"))


def test_a_table_is_drawn_with_its_values(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips()
    drawn = ask(capsys, "SELECT label, count(*) AS n FROM clips GROUP BY label ORDER BY label")
    assert [word for word in re.findall(r"\w+", drawn) if word in LABELS] == LABELS


def test_output_goes_to_a_file_when_asked(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips()
    assert ask(capsys, "SELECT label_id FROM clips ORDER BY 1", "--format", "parquet", "--output", "out.parquet") == ""
    assert pq.read_table("out.parquet").column("label_id").to_pylist() == [0, 0, 1, 1, 2, 2]
    assert ask(capsys, "SELECT 1 AS one", "--format", "csv", "--output", "out.csv") == ""
    assert Path("out.csv").read_text() == "one\n1\n"


def test_parquet_needs_a_file(project: Path) -> None:
    with pytest.raises(QueryError, match="parquet is not text: give --output FILE"):
        query.run(query.Options("tiny", "SELECT 1", format="parquet"))


def test_without_sql_the_tables_and_queries_that_run_are_shown(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clips()
    write_tags()
    write_pseudo_labels()
    shown = ask(capsys)
    assert "  sounds: clip_id, sound, probability\n" in shown
    examples = re.findall(r'pipeline\.query tiny "(.*)"', shown)
    assert len(examples) == 3
    for example in examples:
        assert ask(capsys, example)
