"""Test-time adaptation of video models by what they hear.  Imports nothing of `pipeline`.

From Python, without tables or files (`wrap` and the rest are loaded when first asked for):

    import adapt

    # any nn.Module: frames (B, C, T, H, W) in [0, 1] to logits
    model = adapt.wrap(my_video_model, method="audio", classes=names)
    logits = model(frames, sound={"dog barking": 0.9})  # adapts on this clip, then predicts it
"""

import importlib
from typing import Any

__all__ = [  # noqa: F822 - of adapt.wrapper
    "Sound", "Wrapped", "hugging_face", "source_statistics", "timm_images", "torchvision_video", "wrap",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'adapt' has no attribute {name!r}")
    return getattr(importlib.import_module("adapt.wrapper"), name)
