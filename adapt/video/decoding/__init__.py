"""Videos in, frames out: exactly those that a player shows, in its order, or one true reason why not.

Files are read in worker processes, so that one on which a decoder hangs or crashes costs a worker and is a failed clip,
never a run.  Two readers serve.  decord is the default, wherever a look at the file's packets says that it finds its
frames (`_container.py`); everything else is read by PyAV, from the first frame to the last.  `Facts.reader` says which.

    with Decoders(timeout_s=60) as decoders, decoders.open(path) as video:
        for chunk in video.frames(range(0, video.facts.n_frames, 10)):  # uint8 (n, H, W, 3), valid until the next one
            ...

The room of both packages: `pipeline` imports it too, so nothing here imports torch.  Worker processes start at the
first file (0.3 s each), are kept for the next `Decoders` of the same process, and end with it, however it ends.
"""

from adapt.video.decoding._limits import FRAMES_AT_ONCE, TIMEOUT_S, Facts, UnreadableError
from adapt.video.decoding._pool import ClosedError, DecodeError, Decoders, FactsChangedError, Video
from adapt.video.decoding._single import ONE_FILE, open_file, refusal

__all__ = [
    "FRAMES_AT_ONCE",
    "ONE_FILE",
    "TIMEOUT_S",
    "ClosedError",
    "DecodeError",
    "Decoders",
    "Facts",
    "FactsChangedError",
    "UnreadableError",
    "Video",
    "open_file",
    "refusal",
]
