"""Labels shuffled in clips.parquet: no method but the upper bound, which is told them and marked so, answers
otherwise.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adapt import methods
from adapt.stream import streaming
from tests import built, greys, tiny_project
from tests.greys import LABELS
from tests.pairs import singles
from tests.tiny_project import options

CLIPS = Path("cache/tiny/clips.parquet")
ANSWERS = [
    "clip_id",
    "position",
    "probs",
    "fused_probs",
    "before_id",
    "after_id",
    "fused_id",
    "steps",
    "stop_reason",
    "gate",
    "left_out",
]
STEPS: dict[str, Any] = {  # eata, sar and deyo step too
    "max_iterations": 2,
    "entropy_margin": 1.1,
    "eata_similarity": 1.1,
    "deyo_drop": -1.0,
}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The tiny project, and one in which the labels of the test clips are shuffled, the list of classes and all else
    being the same.
    """
    made = [tiny_project.copy(tmp_path_factory) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made[1])
        rows = pq.read_table(CLIPS).to_pylist()
        tested = [i for i, row in enumerate(rows) if row["split"] == "test"]
        true = [rows[i]["label_id"] for i in tested]
        shuffled = np.random.default_rng(0).permutation(true).tolist()
        assert sum(a != b for a, b in zip(true, shuffled, strict=True)) >= 4
        for i, label_id in zip(tested, shuffled, strict=True):
            rows[i] |= {"label_id": label_id, "label": LABELS[label_id]}
        greys.write_clips(CLIPS.parent, rows)
        tiny_project.write_sounds(pq.read_table(CLIPS.with_name("pseudo_labels.parquet")).to_pylist())
    return made


def bytes_of(path: Path, columns: list[str]) -> bytes:
    """Those columns of a table as Arrow's own bytes."""
    table = pq.read_table(path, columns=columns).replace_schema_metadata(None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    answered: bytes = sink.getvalue().to_pybytes()
    return answered


@pytest.mark.parametrize(
    "method", singles(methods.names(), ("shot", "t3a", "vitta", "audio", "audio_only", "oracle_gate"))
)
def test_shuffling_the_labels_changes_no_byte_of_any_answer_but_the_upper_bounds(
    method: str, projects: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, traces, scores = [], [], []
    for folder in projects:
        monkeypatch.chdir(folder)
        streaming.run(options(method, corruptions=("gauss",), settings=built.fitting(method, **STEPS)))
        out = Path("cache/tiny/adapt") / method
        answers.append(bytes_of(out / "predictions.parquet", ANSWERS))
        steps = [name for name in pq.read_schema(out / "traces.parquet").names if name != "ms"]
        traces.append(bytes_of(out / "traces.parquet", steps))
        scores.append(json.loads(Path(f"cache/metrics/tiny/{method}.json").read_text())["alone"])
    told = method == "oracle_gate"
    assert (answers[0] != answers[1], traces[0] != traces[1]) == (told, told)
    assert scores[0] != scores[1]  # the shuffled labels were those that answers are scored by
