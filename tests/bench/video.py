"""Reading and corrupting frames: a 3 s 128 x 128 clip as the demo has it, and every corruption on 16 frames of 224 x 224."""
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from adapt import corruptions
from adapt.cache import Clip
from adapt.video import VideoOptions, read_clip
from tests.bench import Row, median_ms
from tests.clips import write_video


def rows() -> Iterator[Row]:
    """Decode, then one row a corruption."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / "clip.mp4", [5 * i for i in range(48)], (128, 128), 16)
        clip = Clip("clip", path, "test", 0, "ok")
        taken = median_ms(lambda: read_clip(clip, VideoOptions(), "clean", 0))
        yield Row("read 2 views and the centre of a 48-frame clip, one pass", taken, "ms/clip")
    frames = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), np.uint8)
    for name in corruptions.CORRUPTIONS:
        taken = median_ms(lambda name=name: corruptions.apply(frames, name, 5, seed=0, clip_id="a"))  # type: ignore[misc]
        yield Row(f"{name}, severity 5, 16 x 224 x 224", taken, "ms/clip")
