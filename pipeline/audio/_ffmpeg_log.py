"""What ffmpeg says on stderr while it decodes: its input's streams, where the sound track's timestamps leave gaps, the
last errors.

ffmpeg writes into a pipe, which a thread empties and parses as it comes, in memory that does not grow with it: so a
broken file with a million complaints neither blocks ffmpeg nor fills memory, and no full disk can swallow a line.  What
ffmpeg says of a sample it says before it writes the sample; so whoever has read a sample empties the pipe as well
before it looks at what was said, and need not wait for the thread.
"""

import math
import os
import re
import select
from collections import deque
from dataclasses import dataclass
from threading import Lock

LEVEL = "level+verbose"  # info names the streams, verbose tells of a corrected start, level+ marks the errors
GAP_S = 0.1  # timestamps that leave less than this open are jitter
LONGEST_GAP_S = 24 * 3600.0  # timestamps that leave more than this open are broken
# Filters before the resampler.  Whenever ffmpeg begins to count samples (N = 0), and whenever a timestamp T is ahead of
# the samples before it, print the count, the rate and the timestamp; ld(1) is by how much they were ahead the last
# time.  Then gather samples into larger frames, which saves a sixth of ffmpeg's time and costs up to 0.1 s where a
# track changes its format.
TELL_TIMES = (
    f"asetpts='if(eq(N,0)+gt(T-N/SR-ld(1),{GAP_S}),print(N)+print(SR)+print(T)+st(1,T-N/SR));PTS',"
    "asetnsamples=n=4096:p=0"
)
# the parts of ffmpeg that speak, before the level: a title that looks like an error has none
WHO = r"(?:\[[^\[\]]* @ \w+\] )*"
CHUNK_BYTES = 1 << 16  # also the longest line that is kept whole
HEADER_CHARS = 1 << 20
N_ERRORS, ERROR_CHARS = 4, 300  # kept: the reason, and what followed from it
# ffmpeg's last words: from 6.1 on its exit code, before that its sums
LAST = re.compile(rf"\[verbose\] Exiting with exit code |{WHO}\[info\] video:.* muxing overhead: ")
TOLD_TO_STOP = re.compile(r"\[info\] Exiting normally, received signal (\d+)")
NAMED_LAYOUTS = {
    "mono": 1,
    "stereo": 2,
    "downmix": 2,
    "binaural": 2,
    "quad": 4,
    "hexagonal": 6,
    "octagonal": 8,
    "cube": 8,
}


@dataclass(frozen=True)
class Promise:
    """What a container says of itself before any of it is decoded."""

    opened: bool
    n_tracks: int  # of sound
    has_picture: bool
    default_track: int  # the first sound track that is marked so, else 0
    n_channels: int | None  # of the track asked for
    expected_s: float | None  # of its longest stream


@dataclass(frozen=True)
class Jump:
    """Where a track's timestamps are ahead of its samples, or ffmpeg began to count them (n_before = 0)."""

    n_before: int  # samples before it, at `source_rate`
    source_rate: int  # Hz
    time_s: float  # of the sample that follows, from the container's start


class Log:
    """What ffmpeg writes to its stderr, a pipe, at LEVEL and with TELL_TIMES."""

    def __init__(self, descriptor: int) -> None:
        """Read from the pipe's open end `descriptor`, which is set not to block."""
        os.set_blocking(descriptor, False)
        self.errors: deque[str] = deque(maxlen=N_ERRORS)
        self.jumps: deque[Jump] = deque()  # not yet taken by the reader
        self.header = ""
        self.told_to_stop = 0  # the signal
        self._descriptor, self._rest, self._lock = descriptor, b"", Lock()
        self._has_ended = self._has_last_words = False
        self._numbers: list[float] = []
        self._corrected_s = 0.0

    def follow(self) -> None:
        """Read until ffmpeg has closed its end; for a thread.  Whatever fails, the pipe is emptied."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        try:
            while not self._has_ended:
                poll.poll()
                self.read()
        except BaseException:
            os.set_blocking(self._descriptor, True)
            while os.read(self._descriptor, CHUNK_BYTES):
                pass
            raise

    def read(self) -> None:
        """Take in all that ffmpeg has written until now."""
        with self._lock:
            while not self._has_ended:
                try:
                    chunk = os.read(self._descriptor, CHUNK_BYTES)
                except BlockingIOError:
                    return
                self._has_ended = not chunk
                *lines, rest = (self._rest + chunk).split(b"\n")
                self._rest = rest[:CHUNK_BYTES]
                for line in lines:
                    self._take(line.decode("utf-8", errors="replace"))

    def is_whole(self) -> bool:
        """Whether ffmpeg said all that it had to say, to its last word."""
        return self._has_ended and not self._rest and (self._has_last_words or bool(self.errors))

    def _take(self, line: str) -> None:
        if line.startswith("[Eval @") and (number := re.match(r"\[Eval @ \w+\] \[info\] (-?[\d.]+|-?nan)$", line)):
            self._numbers.append(float(number[1]))
            if len(self._numbers) == 3:
                n_before, source_rate, time_s = self._numbers
                self.jumps.append(
                    Jump(int(n_before), int(source_rate), 0.0 if math.isnan(time_s) else time_s + self._corrected_s)
                )
                self._numbers.clear()
        elif re.match(rf"{WHO}\[(error|fatal|panic)\] ", line):
            if not re.match(
                r"\[(s16le|wav) @ \w+\] .*to muxer", line
            ):  # that is about the samples we get: they keep timestamps that step back
                self.errors.append(line[:ERROR_CHARS])
        elif LAST.match(line):
            self._has_last_words = True
        elif stopped := TOLD_TO_STOP.match(line):
            self.told_to_stop = int(stopped[1])
        elif len(self.header) < HEADER_CHARS:
            self.header += f"{line}\n"
            # MPEG's streams count from the first timestamp of those that are read: that is of the sound, not of the
            # container.
            if moved := re.match(rf"{WHO}\[verbose\] Correcting start time of Input #0 by (-?\d+) us", line):
                self._corrected_s = int(moved[1]) / 1e6

    def error(self) -> str | None:
        """The last errors as one line; None where there were none."""
        return re.sub(r" @ 0x[0-9a-f]+", "", " | ".join(self.errors)) or None  # addresses differ from run to run


class Clock:
    """How much silence belongs before which decoded sample, so that a sample's place in the sound is its time in the
    container.

    Sound that overlaps what came before is kept and follows it: nothing is ever cut out.
    """

    def __init__(self, sample_rate: int) -> None:
        """Count in samples of the decoded sound, at `sample_rate` Hz."""
        self._sample_rate = sample_rate
        self._counted_from: int | None = None  # the decoded sample at which ffmpeg began to count
        self._n_silent = 0  # samples of silence so far

    def place(self, jump: Jump) -> tuple[int, int]:
        """(decoded sample, samples of silence before it) for the next jump."""
        due = round(jump.time_s * self._sample_rate)
        if self._counted_from is None:
            self._counted_from = 0
        elif jump.n_before == 0:  # the track changed its format, and ffmpeg began anew: there is no telling a gap
            self._counted_from = max(self._counted_from, due - self._n_silent)
        at = self._counted_from + round(jump.n_before * self._sample_rate / max(jump.source_rate, 1))
        n_missing = due - at - self._n_silent
        if not 0 < n_missing <= LONGEST_GAP_S * self._sample_rate:
            return at, 0
        self._n_silent += n_missing
        return at, n_missing


def read_promise(stderr: str, track: int = 0) -> Promise:
    """Parse what ffmpeg prints of its input at LEVEL; `track` counts tracks of sound from 0."""
    header = re.split(r"^\[info\] (?:Stream mapping:|Output #)", stderr, maxsplit=1, flags=re.MULTILINE)[0]
    streams = _streams(header)
    sound = [text for kind, text in streams if kind == "Audio"]
    duration = re.search(r"^\[info\]   Duration: (\d+):(\d\d):(\d\d\.\d+)", header, re.MULTILINE)
    return Promise(
        opened=re.search(r"^\[info\] Input #0", header, re.MULTILINE) is not None,
        n_tracks=len(sound),
        has_picture=any(kind == "Video" for kind, _ in streams),
        default_track=next((i for i, text in enumerate(sound) if " (default)" in text), 0),
        n_channels=_n_channels(sound[track]) if track < len(sound) else None,
        expected_s=int(duration[1]) * 3600 + int(duration[2]) * 60 + float(duration[3]) if duration else None,
    )


def _streams(header: str) -> list[tuple[str, str]]:
    """(kind, description) of every stream in the file's order: ffmpeg prints them by programme, and one of two
    programmes twice.

    A language is the file's own words and stands before the kind, so the last kind on a line is ffmpeg's.  One with a
    line break can still forge a stream, as the file could as well have held it.  Versions before 5 indent streams as
    far as they do the title.
    """
    found: dict[int, tuple[str, str]] = {}
    indent = "   " if re.search(r"^\[info\]   Stream #0:", header, re.MULTILINE) else "     "
    for line in re.finditer(
        rf"^\[info\]{indent}Stream #0:(\d+).*: (Audio|Video|Subtitle|Data|Attachment|Unknown): (.*)$",
        header,
        re.MULTILINE,
    ):
        found[int(line[1])] = line[2], line[3]
    return [found[index] for index in sorted(found)]


def _n_channels(stream: str) -> int | None:
    """Count the channels of a layout as ffmpeg names it: `stereo`, `5.1(side)`, `3 channels (FL+FR+LFE)`; None where it
    is another.
    """
    layout = re.search(r"\d+ Hz, ([^,]+)", stream)
    if layout is None:
        return None
    word = re.split(r"[ (]", layout[1])[0]
    if word in NAMED_LAYOUTS:
        return NAMED_LAYOUTS[word]
    return sum(int(part) for part in word.split(".")) if re.fullmatch(r"\d+(\.\d+)*", word) else None
