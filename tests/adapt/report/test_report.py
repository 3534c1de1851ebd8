"""The result table on predictions that the test writes: every number below was worked out by hand from them."""

import csv
import json
from pathlib import Path

from adapt.report import table
from adapt.report.table import Options
from tests.adapt.report.runs import LABELS, TRUTH, Streams, write_clips, write_run


def tables(name: str = "report") -> list[list[list[str]]]:
    """The cells of each table of the report, heads included, the line of dashes left out."""
    text = Path(f"cache/metrics/tiny/{name}.md").read_text()
    blocks = [[line for line in block.splitlines() if line.startswith("| ")] for block in text.split("\n\n")]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in block] for block in blocks if block]


def numbers(name: str = "report") -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = json.loads(Path(f"cache/metrics/tiny/{name}.json").read_text())
    return content


def test_a_table_has_a_row_for_each_answer_with_interval_groups_and_cost(here: Path) -> None:
    write_run("source", {(0, "gauss"): [0, 1, 1, 1], (0, "jpeg"): [0, 1, 0, 0]})
    write_run(
        "audio",
        {(0, "gauss"): [0, 0, 1, 1], (0, "jpeg"): [0, 0, 0, 0]},
        fused={(0, "gauss"): [0, 0, 1, 1], (0, "jpeg"): [0, 0, 1, 1]},
    )
    done = table.run(Options("tiny", ("source", "audio"), ("gauss", "jpeg")))
    assert done == {
        "n_rows": 3,
        "report": "cache/metrics/tiny/report.md",
        "top1": {"source": 50.0, "audio": 75.0, "audio + trusted": 100.0},
    }
    assert list(numbers()) == ["source", "audio", "audio + trusted"]
    # intervals: clips of source have 2, 0, 1 and 1 of two right, so four drawn have Binomial(8, 1/2), whose quantiles
    # are 1 and 7; of audio 2, 2, 1 and 1, so 4 + Binomial(4, 1/2), with 0 and 4
    assert tables() == [[
        ["method", "gauss", "jpeg", "mean", "95 %", "sounding", "silent", "steps", "ms/clip"],
        ["source", "75.0", "25.0", "50.0", "12.5 to 87.5", "50.0", "50.0", "2.00", "10"],
        ["audio", "100.0", "50.0", "75.0", "50.0 to 100.0", "100.0", "50.0", "2.00", "10"],
        ["audio + trusted", "100.0", "100.0", "100.0", "100.0 to 100.0", "100.0", "100.0", "2.00", "10"],
    ]]  # fmt: skip
    with Path("cache/metrics/tiny/accuracy.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[:4] == [
        ["method", "corruption", "top1"],
        ["source", "all", "50.0"],
        ["source", "gauss", "75.0"],
        ["source", "jpeg", "25.0"],
    ]
    assert rows[-1] == ["audio + trusted", "jpeg", "100.0"]


def test_an_upper_bound_is_marked_in_every_file(here: Path) -> None:
    write_run("oracle_gate", {(0, "gauss"): [0, 0, 1, 1]}, sees_labels=True)
    done = table.run(Options("tiny", ("oracle_gate",), ("gauss",)))
    assert done["top1"] == {"oracle_gate (sees labels)": 100.0}
    assert tables()[0][1][0] == "oracle_gate (sees labels)"
    assert "oracle_gate (sees labels),all" in Path("cache/metrics/tiny/accuracy.csv").read_text()


def test_clips_of_several_classes_have_a_mean_average_precision(here: Path) -> None:
    write_run("source", {(0, "gauss"): [0, 1, 1, 1]}, several=True)  # clips of equal scores rank in order
    table.run(Options("tiny", ("source",), ("gauss",)))
    assert tables()[0][0][-3:] == ["mAP", "steps", "ms/clip"]
    assert tables()[0][1][-3] == "79.2"  # class 0: 1; class 1, whose clips come second and third: (1/2 + 2/3) / 2
    assert numbers()["source"]["map"] == 79.17
    assert "*mAP*" in Path("cache/metrics/tiny/report.md").read_text()


def test_clean_is_a_column_of_its_own_and_no_part_of_the_mean(here: Path) -> None:
    streams: Streams = {(0, "clean"): [0, 0, 1, 1], (0, "gauss"): [1, 1, 0, 1]}  # 100 and 25
    write_run("source", streams)
    write_run("audio", {(0, "clean"): [0, 0, 1, 0], (0, "gauss"): [0, 0, 1, 1]})  # 75 and 100
    table.run(Options("tiny", ("source", "audio"), ("clean", "gauss"), against=("source",)))
    assert [row[1:4] for row in tables()[0]] == [
        ["clean", "gauss", "mean"],
        ["100.0", "25.0", "25.0"],
        ["75.0", "100.0", "100.0"],
    ]
    assert tables()[1][0] == ["method", "mean", "ratio", "sounding", "silent", "clean", "p"]
    assert tables()[1][1][1].startswith("+75.0") and tables()[1][1][5].startswith("-25.0")
    assert (
        json.loads(Path("cache/metrics/tiny/source.json").read_text())["alone"]["all"] == 25.0
    )  # metrics agree with the report
    table.run(Options("tiny", ("source",), ("clean",)))
    assert tables()[0][1][1:3] == ["100.0", "100.0"]  # but alone it is all there is


def test_several_orders_give_a_mean_and_its_standard_deviation(here: Path) -> None:
    write_run("vitta", {(0, "gauss"): [0, 0, 0, 0], (1, "gauss"): [0, 0, 1, 1]})  # 50 and 100: mean 75, sd 50 / sqrt 2
    table.run(Options("tiny", ("vitta",), ("gauss",)))
    assert tables()[0][1][1:3] == ["75.0", "75.0 ± 35.4"]
    assert numbers()["vitta"]["all_sd"] == 35.36
    assert "2 orders of the stream" in Path("cache/metrics/tiny/report.md").read_text()
    table.run(Options("tiny", ("vitta",), ("gauss",), order_seeds=(1,)))
    assert tables()[0][1][1:3] == ["100.0", "100.0"]


def test_a_difference_is_given_with_interval_ratio_and_mcnemars_p(here: Path) -> None:
    truth = {f"test/{LABELS[i % 2]}/{i}": i % 2 for i in range(8)}
    right, wrong = [i % 2 for i in range(8)], [1 - i % 2 for i in range(8)]
    write_clips(truth)
    write_run("vitta", {(0, "gauss"): [*right[:2], *wrong[2:]]}, truth=truth)
    write_run("audio", {(0, "gauss"): [*right[:7], wrong[7]]}, truth=truth)
    table.run(Options("tiny", ("vitta", "audio"), ("gauss",), against=("vitta",)))
    assert [row[0] for row in tables()[1]] == ["method", "audio"]  # nothing is compared with itself
    found = numbers()["audio"]["against"]["vitta"]  # type: ignore[index]
    # 5 of 8 clips gained, none lost: the resampled gain is Binomial(8, 5/8) / 8, whose 2.5 and 97.5 % quantiles are 2
    # and 7; p = 2 / 2^5
    assert {k: found[k] for k in ("all", "all_low", "all_high", "p")} == {
        "all": 62.5,
        "all_low": 25.0,
        "all_high": 87.5,
        "p": 0.0625,
    }
    assert (found["sounding"], found["silent"]) == (
        75.0,
        50.0,
    )  # of four bells 1 and 4 are right, of four chess 1 and 3
    assert tables()[1][1][1] == "+62.5 (+25.0 to +87.5)" and tables()[1][1][-1] == "0.062"
    assert (
        tables()[1][1][2] == "-"
    )  # eight clips of which two are right: some resamples have none, and there is no ratio


def test_p_is_of_the_first_order_and_the_ratio_is_of_means(here: Path) -> None:
    write_run("vitta", {(0, "gauss"): [0, 0, 1, 1], (1, "gauss"): [0, 0, 1, 1]})
    write_run("audio", {(0, "gauss"): [0, 0, 1, 1], (1, "gauss"): [1, 1, 0, 0]})
    table.run(Options("tiny", ("audio",), ("gauss",), against=("vitta",)))
    assert tables()[1][1] == [
        "audio",
        "-50.0 (-50.0 to -50.0)",
        "0.50 (0.50 to 0.50)",
        *["-50.0 (-50.0 to -50.0)"] * 2,
        "1.000",
    ]


def test_fused_is_compared_with_fused_where_there_is_one(here: Path) -> None:
    one, all_, none = [0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]  # 25, 100 and 0
    write_run("full", {(0, "gauss"): one}, fused={(0, "gauss"): all_}, method="audio")
    write_run("no_mix", {(0, "gauss"): none}, fused={(0, "gauss"): none}, method="audio")
    write_run("bare", {(0, "gauss"): one}, method="audio", fusion="none")
    table.run(Options("tiny", ("no_mix",), ("gauss",), against=("full", "bare")))
    against = [numbers()[row]["against"] for row in ("no_mix", "no_mix + trusted")]
    assert [against[0][r]["all"] for r in ("full", "bare")] == [-25.0, -25.0]  # type: ignore[index]
    assert [against[1][r]["all"] for r in ("full", "bare")] == [-100.0, -25.0]  # type: ignore[index]


def differences(row: str) -> dict[str, float]:
    """By the name of the reference: how far the row's mean is from it."""
    against: dict[str, dict[str, float]] = numbers()[row].get("against", {})  # type: ignore[assignment]
    return {name: found["all"] for name, found in against.items()}


def test_every_row_is_compared_with_the_answers_that_are_named_whatever_kind_it_is(here: Path) -> None:
    """`vitta` is its answer alone, `vitta+trusted` its fused one, also for rows of the other kind."""
    streams: list[Streams] = [
        {(0, "gauss"): answers} for answers in ([0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 1])
    ]  # 25, 75, 75, 100
    write_run("vitta", streams[0], fused=streams[1])
    write_run("audio", streams[2], fused=streams[3])
    table.run(Options("tiny", ("vitta", "audio"), ("gauss",), against=("vitta", "vitta+trusted")))
    assert list(numbers()) == ["vitta", "vitta + trusted", "audio", "audio + trusted"]
    assert differences("audio") == {"vitta": 50.0, "vitta+trusted": 0.0}
    assert differences("audio + trusted") == {"vitta": 75.0, "vitta+trusted": 25.0}
    assert differences("vitta") == {"vitta+trusted": -50.0}  # nothing is compared with itself
    assert differences("vitta + trusted") == {"vitta": 50.0}
    assert [block[1][0] for block in tables()[1:]] == ["vitta + trusted", "vitta"]


def test_a_reference_need_not_be_a_row(here: Path) -> None:
    write_run("source", {(0, "gauss"): [0, 0, 1, 1]})
    write_run("vitta+plain", {(0, "gauss"): [0, 1, 0, 0]}, fused={(0, "gauss"): [0, 0, 0, 1]})
    table.run(Options("tiny", ("source",), ("gauss",), against=("vitta+plain",)))
    assert list(numbers()) == ["source"]
    assert differences("source") == {"vitta+plain": 25.0}


def test_a_method_alone_is_one_row_however_many_fusions_it_ran_with(here: Path) -> None:
    alone, plain, trusted = ({(0, "gauss"): answers} for answers in ([0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]))
    write_run("vitta", alone, fused=trusted)
    write_run("vitta+plain", alone, fused=plain)
    write_run("vitta+none", alone)
    done = table.run(Options("tiny", ("vitta", "vitta+plain", "vitta+none"), ("gauss",), against=("vitta",)))
    assert done["top1"] == {"vitta": 25.0, "vitta + trusted": 100.0, "vitta + plain": 50.0}
    assert differences("vitta + plain") == {"vitta": 25.0}


def test_a_run_of_its_own_name_has_rows_of_that_name(here: Path) -> None:
    write_run(
        "lr=1e-4", {(0, "gauss"): [0, 1, 0, 0]}, fused={(0, "gauss"): [0, 0, 1, 1]}, method="vitta", fusion="plain"
    )
    write_run("vitta", {(0, "gauss"): [0, 0, 0, 0]}, fused={(0, "gauss"): [0, 0, 1, 1]})
    table.run(Options("tiny", ("lr=1e-4", "vitta"), ("gauss",), against=("lr=1e-4", "vitta")))
    assert list(numbers()) == ["lr=1e-4", "lr=1e-4 + plain", "vitta", "vitta + trusted"]
    assert differences("lr=1e-4") == {"vitta": -25.0}
    assert differences("vitta + trusted") == {"lr=1e-4": 0.0, "vitta": 50.0}  # by name: fused with fused


def test_a_clip_that_cannot_be_read_is_wrong_and_counted(here: Path) -> None:
    write_run(
        "audio",
        {(0, "gauss"): [0, None, 1, 1], (0, "jpeg"): [0, None, 1, 1]},
        fused={(0, c): [0, 0, 1, 1] for c in ("gauss", "jpeg")},
    )
    table.run(Options("tiny", ("audio",), ("gauss", "jpeg")))
    assert [row[3] for row in tables()[0][1:]] == ["75.0", "75.0"]
    assert [row[-2:] for row in tables()[0][1:]] == [["2.00", "10"]] * 2  # costs are of the clips that were read
    assert "4 clips, 1 of them unreadable" in Path("cache/metrics/tiny/report.md").read_text()


def test_a_group_of_classes_without_clips_has_a_dash(here: Path) -> None:
    write_clips(TRUTH, sounding=())
    write_run("source", {(0, "gauss"): [0, 0, 1, 1]})
    table.run(Options("tiny", ("source",), ("gauss",)))
    assert tables()[0][1][4:6] == ["-", "100.0"]


def test_runs_of_a_folder_have_a_report_of_their_own(here: Path) -> None:
    write_run("source", {(0, "gauss"): [0, 0, 1, 1]})
    write_run("ablation/full", {(0, "gauss"): [0, 0, 1, 0]}, method="audio")
    table.run(Options("tiny", ("source",), ("gauss",)))
    before = Path("cache/metrics/tiny/accuracy.csv").read_bytes()
    done = table.run(Options("tiny", ("full",), ("gauss",), folder="ablation", out="ablation"))
    assert done == {"n_rows": 1, "report": "cache/metrics/tiny/ablation.md", "top1": {"full": 75.0}}
    assert {p.name for p in Path("cache/metrics/tiny").glob("ablation.*")} == {
        "ablation.md",
        "ablation.json",
        "ablation.csv",
    }
    assert Path("cache/metrics/tiny/accuracy.csv").read_bytes() == before


def test_the_same_runs_give_the_same_bytes(here: Path) -> None:
    write_run("source", {(0, "gauss"): [0, 1, 1, 1]})
    write_run("audio", {(0, "gauss"): [0, 0, 0, 1]})

    def files() -> list[bytes]:
        table.run(Options("tiny", ("source", "audio"), ("gauss",), against=("source",)))
        return [
            Path(f"cache/metrics/tiny/{name}").read_bytes() for name in ("report.md", "report.json", "accuracy.csv")
        ]

    assert files() == files()


def test_classes_of_unequal_size_have_a_macro_mean_and_a_class_map_what_it_left_out(here: Path) -> None:
    truth = {"test/a": 0, "test/b": 0, "test/c": 0, "test/d": 1}
    write_clips(truth)
    write_run("source", {(0, "gauss"): [0, 0, 0, 0]}, truth=truth, left_out=0.25)
    write_run("vitta", {(0, "gauss"): [0, 1, 1, 1]}, truth=truth)
    table.run(Options("tiny", ("source", "vitta"), ("gauss",), against=("vitta",)))
    first, second = tables()
    names = ["mean", "macro", "left out"]
    cells = [dict(zip(first[0], row, strict=True)) for row in first[1:]]
    assert [[cell[name] for name in names] for cell in cells] == [["75.0", "50.0", "25.0"], ["50.0", "66.7", "-"]]
    assert dict(zip(second[0], second[1], strict=True))["macro"].startswith("-16.7 (")
    source = numbers()["source"]
    assert (source["macro"], source["left_out"]) == (50.0, 25.0)
