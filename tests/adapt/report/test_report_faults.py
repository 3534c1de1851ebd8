"""The report: runs that do not fit one table, are not there, or are of other data are one line."""

import json
import re
import sys
from pathlib import Path

import pytest

from adapt import command
from adapt.errors import AdaptError, CacheError, EarshotError, MethodError
from adapt.report import table
from adapt.report.table import Options
from adapt.tables import cache
from tests.adapt.report.runs import TRUTH, write_clips, write_run


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of other orders, clips, labels and streams than each other."""
    root = tmp_path_factory.mktemp("unlike")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_clips(TRUTH)
        write_run("source", {(0, "gauss"): [0, 0, 1, 1]})
        write_run("two_orders", {(0, "gauss"): [0, 0, 1, 1], (1, "gauss"): [0, 0, 1, 1]})
        write_run("fewer", {(0, "gauss"): [0, 0, 1]}, truth=dict(list(TRUTH.items())[:3]))
        write_run("shuffled", {(0, "gauss"): [0, 0, 1, 1]}, truth=TRUTH | {"test/bell/0": 1})
        write_run("torn", {(0, "gauss"): [0, 0, 1, 1], (0, "jpeg"): [0, 0, 1, 1]})
        path = Path("cache/tiny/adapt/torn/predictions.parquet")
        rows = [
            row
            for row in cache.read_predictions(path)
            if (row["corruption"], row["clip_id"]) != ("jpeg", "test/bell/0")
        ]
        cache.write_table(path, "predictions", rows, {"data_sha256": cache.data_sha256("tiny")})
    return root


@pytest.mark.parametrize("against", ["audio", "vitta+balanced", "tent", "full+plain"])
def test_a_reference_that_is_not_there_is_one_line_with_what_there_is(against: str, here: Path) -> None:
    write_run("source", {(0, "gauss"): [0, 0, 1, 1]})
    write_run("vitta", {(0, "gauss"): [0, 0, 1, 1]}, fused={(0, "gauss"): [0, 0, 1, 1]})
    with pytest.raises(
        MethodError, match=rf"^--against {re.escape(against)}: no run .*; there are \['source', 'vitta'\]$"
    ):
        table.run(Options("tiny", ("source", "vitta"), ("gauss",), against=(against,)))


def test_two_runs_that_would_share_a_row_and_answer_otherwise_are_one_error(here: Path) -> None:
    write_run("vitta", {(0, "gauss"): [0, 1, 0, 0]}, fused={(0, "gauss"): [0, 0, 1, 1]})
    write_run("vitta+plain", {(0, "gauss"): [0, 0, 0, 0]}, fused={(0, "gauss"): [0, 0, 1, 1]})
    with pytest.raises(
        MethodError,
        match="runs vitta and vitta[+]plain both give a row 'vitta', of other answers: give one another --name",
    ):
        table.run(Options("tiny", ("vitta", "vitta+plain"), ("gauss",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("source", "norm")}, r"adapt/norm/predictions.parquet is missing: run `dvc repro adapt@norm`"),
        (
            {"methods": ("source",), "folder": "ablation"},
            "predictions.parquet is missing: run `python -m adapt` .*--name ablation/source",
        ),
        (
            {"methods": ("source", "two_orders")},
            "runs source and two_orders cannot be compared: they have orders 0 and 0 1",
        ),
        (
            {"methods": ("source",), "against": ("fewer",)},
            r"runs source and fewer cannot be compared: 1 clips are in one .*test/chess/1",
        ),
        (
            {"methods": ("source", "shuffled")},
            "runs source and shuffled cannot be compared: their clips have other labels",
        ),
        (
            {"methods": ("source",), "corruptions": ("gauss", "jpeg")},
            r"source/predictions.parquet has no stream of jpeg .* \(it has gauss 0\)",
        ),
        ({"methods": ("source",), "severity": 3}, "no stream of gauss at severity 3 in order 0"),
        ({"methods": ("source",), "order_seeds": (4,)}, "no stream of gauss at severity 5 in order 4"),
        ({"methods": ("source",), "split": "train"}, "run source has 4 clips that split train of tiny has not"),
        ({"methods": ("torn",), "corruptions": ("gauss", "jpeg")}, "other clips in its streams of jpeg and gauss"),
    ],
)
def test_runs_that_do_not_fit_one_table_are_one_line(
    options: dict[str, tuple[str, ...]], message: str, unlike: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unlike)
    with pytest.raises(CacheError, match=message) as error:
        table.run(Options("tiny", **({"corruptions": ("gauss",)} | options)))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    assert isinstance(error.value, EarshotError)


def test_a_run_of_other_data_or_that_does_not_say_of_which_is_refused(here: Path) -> None:
    write_run("source", {(0, "gauss"): [0, 0, 1, 1]})
    chosen, path = Options("tiny", ("source",), ("gauss",)), Path("cache/tiny/adapt/source/predictions.parquet")
    write_clips(TRUTH, sounding=())  # what the sounds say has changed
    with pytest.raises(CacheError, match=r"was made for another .*, which has changed: run `dvc repro adapt@source`"):
        table.run(chosen)
    cache.write_table(path, "predictions", cache.read_predictions(path), {})
    with pytest.raises(CacheError, match=r"does not say for which .* it was made: run `dvc repro adapt@source`"):
        table.run(chosen)


@pytest.mark.parametrize(
    ("methods", "corruptions"),
    [((), ("gauss",)), (("source",), ()), (("source",), ("gauss", "gauss")), (("a", "a"), ("gauss",))],
)
def test_a_table_without_rows_or_columns_or_with_one_twice_is_an_error(
    methods: tuple[str, ...], corruptions: tuple[str, ...], here: Path
) -> None:
    with pytest.raises(AdaptError, match="give at least one, each once"):
        table.run(Options("tiny", methods, corruptions))


def test_the_command_prints_one_json_line_or_one_line_of_what_is_wrong(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run("source", {(0, "gauss"): [0, 0, 1, 1]})

    def report(*flags: str) -> None:
        monkeypatch.setattr(sys, "argv", ["report", "--dataset", "tiny", "--corruptions", "gauss", *flags])
        command.main(Options, table.run, prog="adapt.report")

    report("--methods", "source")
    assert json.loads(capsys.readouterr().out)["top1"] == {"source": 100.0}
    with pytest.raises(SystemExit) as done:
        report("--methods", "norm")
    printed = capsys.readouterr()
    assert (done.value.code, printed.out, printed.err.count("\n")) == (1, "", 1)
