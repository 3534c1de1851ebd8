"""What clips' sounds say, as the columns of `pseudo_labels`."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.labels.evidence import Causes, Evidence


def columns_of(
    found: Evidence, absent: npt.NDArray[np.float32], sounds: Sequence[str], classes: Sequence[str], schema: pa.Schema
) -> dict[str, pa.Array]:
    """What the table says of each clip after its id and status."""
    lists = {"probs": found.q.astype(np.float32), "evidence": found.s.astype(np.float32), "absent": absent}
    columns = {name: _list_column(values, schema.field(name).type) for name, values in lists.items()}
    top = pa.array(classes, pa.string()).take(pa.array(found.top, mask=found.mass == 0))
    causes = _causes_column(found.causes, len(absent), sounds, schema.field("causes").type)
    return columns | {"mass": pa.array(found.mass), "top_label": top, "causes": causes}


def _list_column(values: npt.NDArray[np.float32], type_: pa.ListType) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values.ravel()), type=type_)


def _causes_column(causes: Causes, n_clips: int, sounds: Sequence[str], type_: pa.ListType) -> pa.Array:
    names = pa.array(sounds, pa.string()).take(pa.array(causes.sounds))
    values = pa.StructArray.from_arrays(
        [names, pa.array(causes.probabilities), pa.array(causes.weights)], fields=list(type_.value_type)
    )
    offsets = np.concatenate([[0], np.cumsum(np.bincount(causes.clips, minlength=n_clips))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, type=type_)
