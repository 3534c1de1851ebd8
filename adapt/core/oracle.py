"""The door to ground truth, for upper bounds.

The stage makes an Oracle for a method whose module declares NEEDS_LABELS, `methods.build` hands it to no other, and
`Batch` has no field for a label.
"""

from collections.abc import Collection, Mapping, Sequence


class Oracle:
    """Knows the true classes of every clip, mostly one."""

    def __init__(self, label_ids: Mapping[str, Collection[int]]) -> None:
        self._label_ids = dict(label_ids)

    def true(self, clip_ids: Sequence[str], classes: Sequence[int]) -> list[bool]:
        """Whether each clip is of the class asked about."""
        return [k in self._label_ids[clip_id] for clip_id, k in zip(clip_ids, classes, strict=True)]
