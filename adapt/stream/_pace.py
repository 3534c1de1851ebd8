"""How a long run gets on: a line now and then with clips a second and the time left."""

import logging
import time
from typing import NamedTuple

log = logging.getLogger("adapt")
EVERY_S = 30.0


class News(NamedTuple):
    """So many more clips are done, of `what`."""

    n_clips: int
    what: str
    anew: bool = True  # now; False for clips that an earlier run did


class Pace:
    """Counts clips from now on."""

    def __init__(self, n_left: int) -> None:
        """`n_left` clips are still to come."""
        self.n_left, self.n_done = n_left, 0
        self.started = self.told = time.monotonic()

    def hear(self, news: News) -> None:
        """Count; every EVERY_S seconds a line says how it goes."""
        self.n_left -= news.n_clips
        if not news.anew:
            return
        self.n_done += news.n_clips
        now = time.monotonic()
        if now - self.told >= EVERY_S:
            self.told = now
            per_s = self.n_done / (now - self.started)
            log.info(
                "%s: %.2f clips/s, %d clips or %s left", news.what, per_s, self.n_left, duration(self.n_left / per_s)
            )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, such as 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
