"""The page of a benchmark: published figures as their sources have them, means over what all rows share, and what
differs.
"""

import json
from pathlib import Path

import pytest

from adapt.errors import DatasetError
from pipeline import datasets
from pipeline.benchmark import _page, _published
from pipeline.benchmark._page import Ours
from pipeline.benchmark._published import TWELVE, Benchmark, Row, Source
from tests.places import ROOT

MADE_UP = Benchmark(
    "toys-c", "Toys-C", "the clips of Toys, corrupted", "nowhere", "toys", "folder", 2,
    {"A": Source("A et al., table 1", ("A looks twice.",))},
    (Row("theirs", "A", {"gauss": 20.0, "jpeg": 40.0}, 30.0), Row("sloppy", "A", {"gauss": 10.0, "jpeg": 20.0}, 15.5)),
)  # fmt: skip
OURS = Ours("vitta_published+none", "alone", 2, 0, {"gauss": 50.0, "defocus": 100.0, "jpeg": 0.0})


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", json.loads((ROOT / "data/benchmarks.json").read_text(encoding="utf-8")))
def test_a_benchmark_has_a_recipe_that_there_is_and_figures_of_known_corruptions(name: str) -> None:
    chosen = _published.benchmark(name)
    assert chosen.recipe in datasets.names()
    assert all(set(row.top1) <= set(TWELVE) for row in chosen.rows)


def test_the_figures_of_ucf101_c_are_those_of_ames_readme() -> None:
    """As its README has them: eleven columns, their mean beside them (of one row it is .09 off)."""
    rows = {row.method: row for row in _published.benchmark("ucf101-c").rows}
    assert rows["without adaptation"].top1 == {
        "gauss": 17.5, "pepper": 23.05, "salt": 6.85, "shot": 71.82, "zoom": 75.55, "impulse": 16.94, "motion": 54.77,
        "jpeg": 82.92, "contrast": 62.89, "rain": 81.31, "h265_abr": 78.54,
    }  # fmt: skip
    means = {name: row.mean for name, row in rows.items()}
    assert means == {
        "without adaptation": 51.98, "BN adaptation": 59.57, "NORM": 63.90, "Contrast TTA": 52.09, "SAR": 59.46,
        "ATCoN": 69.03, "AME": 74.31,
    }  # fmt: skip
    for row in rows.values():
        assert sum(row.top1.values()) / 11 == pytest.approx(row.mean, abs=0.1)


def test_means_are_over_the_corruptions_that_all_rows_have() -> None:
    lines = _page.page(MADE_UP, [OURS], ["This run is a trial."]).splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert table == [
        ["method", "of", "gauss", "defocus", "jpeg", "mean of 2"],
        ["vitta_published+none", "this run", "50.0", "100.0", "0.0", "25.0"],
        ["theirs", "A", "20.0", "-", "40.0", "30.0"],
        ["sloppy", "A", "10.0", "-", "20.0", "15.0"],
    ]
    assert lines[lines.index("## What differs") + 2 :] == [
        "- This run is a trial.", "- A: A looks twice.",
        "- A: the mean of sloppy is stated as 15.50, its columns have 15.00.",
    ]  # fmt: skip
    assert "A: A et al., table 1." in lines


def test_a_benchmark_without_published_figures_says_so_and_has_a_mean_of_its_own() -> None:
    alone = Ours("audio", "fused", 402, 0, dict.fromkeys(TWELVE, 25.0))
    text = _page.page(_published.benchmark("ave-c"), [alone], [])
    assert "No figures of this benchmark are public to us" in text
    assert "| audio, with its sound | this run |" in text and "mean of 12" in text


def test_rows_that_share_no_corruption_have_no_mean() -> None:
    text = _page.page(MADE_UP, [Ours("source+none", "alone", 2, 0, {"defocus": 50.0})], [])
    assert "| source+none | this run | 50.0 | - |" in text


@pytest.mark.parametrize(("change", "said"), [
    ({"rows": [{"method": "x", "source": "B", "mean": 1, "top1": {}}]}, "source 'B' that is not among the sources"),
    ({"rows": [{"method": "x", "source": "A", "mean": 1, "top1": {"fog": 1}}]}, "unknown corruption 'fog'"),
    ({"rows": [{"method": "x", "source": "A", "mean": 1, "top1": {"jpeg": 101}}]}, "a figure that is no per cent"),
    ({"dataset": None, "rows": [{"method": "x"}]}, "is not complete"),
])  # fmt: skip
def test_a_file_of_figures_that_is_not_whole_is_one_line(
    change: dict[str, object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    good = {"title": "X", "about": "x", "from": "x", "dataset": "x", "recipe": "x"}
    good |= {"sources": {"A": {"where": "x", "differs": []}}}  # type: ignore[dict-item]
    Path("data/benchmarks.json").write_text(json.dumps({"x-c": good | change}))
    with pytest.raises(DatasetError, match=said):
        _published.benchmark("x-c")
    with pytest.raises(DatasetError, match=r"unknown benchmark 'y-c': choose one of \[x-c\]"):
        _published.benchmark("y-c")
    Path("data/benchmarks.json").unlink()
    with pytest.raises(DatasetError, match="run this in the project's root"):
        _published.benchmark("x-c")
