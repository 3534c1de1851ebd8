"""Offline precompute: from a folder of videos to pseudo-labels in Parquet.  Shares errors, commands and tables with
`adapt`, nothing else, but for the listener, whose answers are what `adapt.wrap` takes as a clip's sound.

From Python, without tables or files (`Listener` is loaded when first asked for):

    import pipeline

    listener = pipeline.Listener(classes=names)
    logits = model(frames, sound=listener(waveform, sample_rate))  # model = adapt.wrap(my_video_model, classes=names)
"""

import importlib
from typing import Any

__all__ = ["Listener"]  # noqa: F822 - of pipeline.listener


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(importlib.import_module("pipeline.listener"), name)
