"""What a path must be before anything reads it as media: a file, by itself.

A pipe or a device would block its reader or be read for ever.  A playlist is a text that names other files, which
decord, PyAV and ffmpeg read in its place, whatever its own name ends in: it is told by its first words, as they do.
Where a program can be told which kinds of container to read (`CONTAINERS`), it is, so that a playlist that is not
recognised here is refused there.  Loads nothing: whoever reads sound asks here too.
"""

import os
import re
import stat
from io import FileIO
from pathlib import Path

from adapt.video.decoding._limits import UnreadableError

# FFmpeg's demuxers of single files with pictures.  Others read text, images, devices, or files that a file names.
CONTAINERS = (
    "mov", "matroska", "avi", "flv", "live_flv", "mpeg", "mpegts", "mpegvideo", "ogg", "asf", "asf_o", "m4v", "h264",
    "hevc", "h263", "ivf", "obu", "gif", "rm", "nut", "mxf", "dv", "wtv", "yuv4mpegpipe", "vc1", "swf", "mjpeg",
)  # fmt: skip
# The same of single files with sound alone.
SOUND_CONTAINERS = (
    "aac", "ac3", "adx", "aea", "aiff", "amr", "amrnb", "amrwb", "ape", "au", "caf", "dsf", "dts", "dtshd", "eac3",
    "flac", "gsm", "iff", "latm", "loas", "mlp", "mp3", "mpc", "mpc8", "oma", "qcp", "shn", "sox", "tak", "truehd",
    "tta", "voc", "w64", "wav", "wv", "xwma",
)  # fmt: skip
START_BYTES = 4096  # in which the first words of a playlist stand
BLANKS = b"\xef\xbb\xbf \t\r\n"  # before them: a byte order mark, blanks, empty lines
# HLS and M3U, ffconcat, PLS, ASX in its old form, SDP, VobSub's index.
BEGINNINGS = (
    b"#EXTM3U", b"ffconcat version", b"[playlist]", b"[Reference]", b"RTSPtext", b"v=0\r\n", b"v=0\n",
    b"# VobSub index",
)  # fmt: skip
# DASH, Smooth Streaming, SMIL, ASX, WPL, XSPF, IMF: elements of XML; and SDP, whose lines may come in any order.
WITHIN = re.compile(
    rb"<(?:\w+:)?(?:MPD|SmoothStreamingMedia|smil|asx|playlist|CompositionPlaylist|AssetMap)[\s>]"
    rb"|^(?:c=IN IP[46] |m=(?:audio|video) \d)",
    re.IGNORECASE | re.MULTILINE,
)
KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
# Options of ffmpeg before an input: it reads this one file, and no other that the file may name.
ONE_FILE = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS + SOUND_CONTAINERS)}


def open_file(path: str | Path) -> FileIO:
    """Open `path` without a buffer; the caller closes it.  Never waits.

    Raises UnreadableError for what is no regular file, before it is opened, or cannot be opened.
    """
    try:
        _check_kind(os.stat(path))  # noqa: PTH116 - thousands of times a minute; before opening, which a device may notice
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise UnreadableError(f"cannot be opened ({error.strerror})") from error
    file = FileIO(number, "rb")
    try:
        _check_kind(os.fstat(number))  # it may be another one by now
    except UnreadableError:
        file.close()
        raise
    return file


def _check_kind(about: os.stat_result) -> None:
    if not stat.S_ISREG(about.st_mode):
        raise UnreadableError(f"{KINDS.get(stat.S_IFMT(about.st_mode), 'a device')}, not a file")


def check_start(file: FileIO) -> None:
    """Raise UnreadableError for an empty file or a playlist; reads the start of `file`."""
    start = file.read(START_BYTES)
    if not start:
        raise UnreadableError("the file is empty")
    if start.lstrip(BLANKS).startswith(BEGINNINGS) or (b"\x00" not in start and WITHIN.search(start)):
        raise UnreadableError("a playlist, which names other files: put the media file itself there")


def refusal(path: str | Path) -> str | None:
    """Why `path` is not to be read as media, in one line without its name; None where nothing speaks against it."""
    try:
        with open_file(path) as file:
            check_start(file)
    except UnreadableError as error:
        return str(error)
    return None
