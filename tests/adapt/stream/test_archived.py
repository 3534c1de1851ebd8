"""A run of the tiny project, archived: the table made of the archive is the one made of the cache."""

import dataclasses
import json
import shutil
from pathlib import Path

from adapt.methods import vitta
from adapt.report import archive, table
from adapt.stream import streaming
from adapt.tables import parquet
from tests.tiny_project import options

RESULTS = "data/results/tiny"


def test_a_table_of_an_archived_run_is_that_of_the_cache_to_the_byte(here: Path) -> None:
    for method in ("source", "vitta+plain"):
        streaming.run(options(method, order_seeds=(0, 1)))
    counts = archive.run(archive.Options("tiny", RESULTS, ("source", "vitta+plain")))
    assert (counts["n_streams_added"], counts["n_streams_there"]) == (8, 0)
    wanted = table.Options("tiny", ("source", "vitta+plain"), ("clean", "gauss"), against=("source",))
    made = []
    for results in ("", RESULTS):
        table.run(dataclasses.replace(wanted, results=results))
        made.append([Path("cache/metrics/tiny", f"report.{kind}").read_bytes() for kind in ("md", "json")])
        shutil.rmtree("cache/tiny/adapt", ignore_errors=True)  # the second is made of the archive alone
    assert made[0] == made[1]
    said = json.loads(parquet.provenance(Path(RESULTS) / "runs/vitta+plain.parquet")["sittings"])
    assert said[0]["made"]["options"]["settings"]["lr"] == vitta.Settings().lr
    assert "torch" in said[0]["made"]["libraries"]
