"""h265_abr: a whole file encoded again at a fraction of its bit rate, kept in cache/corrupted under a key of everything
that made it.
"""

import hashlib
import subprocess
import tempfile
from contextlib import nullcontext
from functools import cache
from pathlib import Path

from adapt.errors import AdaptError, VideoError
from adapt.video.decoding import ONE_FILE, DecodeError, Decoders, UnreadableError, open_file

FOLDER = Path("cache/corrupted")
VERSION = "2"  # raise it when the same file would be encoded otherwise: every file is then encoded again
DIVISORS = (2, 4, 8, 16, 32)  # of the file's bit rate
ERROR_LENGTH = 200  # characters
TIMEOUT_S = 3600  # of one encoding
# One thread and no dates: equal input gives equal bytes.  Odd sides lose a pixel, as in the published code.
PICTURE = (
    "-map",
    "0:v:0",
    "-an",
    "-vf",
    "crop='iw-mod(iw,2)':'ih-mod(ih,2)'",
    "-fps_mode",
    "passthrough",
    "-pix_fmt",
    "yuv420p",
)
CODEC = ("-c:v", "libx265", "-x265-params", "pools=none:frame-threads=1:log-level=error")
FORMAT = ("-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-f", "mp4")


def h265_abr(path: Path, severity: int, decoders: Decoders | None = None) -> Path:
    """Encode the pictures of `path` through libx265 at an average and maximal rate of the file's rate / divisor
    (Mini-Kinetics-C h265_abr).

    Returns the encoded file, with as many frames as `path`.  Raises VideoError where `path` cannot be encoded,
    AdaptError without ffmpeg.
    """
    binary = _ffmpeg()
    target = FOLDER / f"{_key(path, severity, _version(binary))}.mp4"
    if not target.exists():
        rate = max(1000, bit_rate(path, decoders) // DIVISORS[severity - 1])  # ffmpeg takes no less for a bit rate
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=FOLDER) as scratch:
            encoded = Path(scratch, "encoded.mp4")
            _encode(binary, path, encoded, rate)
            encoded.replace(target)
    return target


def bit_rate(path: Path, decoders: Decoders | None = None) -> int:
    """Bits a second of the whole file, sound included, as ffprobe reports a container's bit rate.  Raises VideoError
    for no picture.
    """
    try:
        with nullcontext(decoders) if decoders else Decoders() as readers:
            duration_s = readers.probe(path).duration_s
        return round(8 * path.stat().st_size / duration_s)
    except (DecodeError, OSError) as error:
        raise VideoError(f"{path}: {error}") from error
    except ZeroDivisionError:
        raise VideoError(f"{path}: it does not say how long it is, so no bit rate can be taken from it") from None


def _encode(binary: str, path: Path, target: Path, rate: int) -> None:
    command = [
        binary,
        "-nostdin",
        "-hide_banner",
        "-loglevel",
        "error",
        "-y",
        "-threads",
        "1",
        *(word for name, value in ONE_FILE.items() for word in (f"-{name}", value)),
        "-i",
        f"file:{path}",
        *PICTURE,
        *CODEC,
    ]
    command += ["-b:v", str(rate), "-maxrate", str(rate), "-bufsize", str(rate), *FORMAT, f"file:{target}"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise VideoError(f"{path}: libx265 took longer than {TIMEOUT_S} s: killed") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise VideoError(f"{path}: libx265 cannot encode it at {rate} bit/s ({lines[-1][:ERROR_LENGTH]})")


def _key(path: Path, severity: int, version: str) -> str:
    try:
        with open_file(path) as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except UnreadableError as error:
        raise VideoError(f"{path}: {error}") from error
    return hashlib.sha256(f"h265_abr/{VERSION}/{version}/{severity}/{content}".encode()).hexdigest()


def _ffmpeg() -> str:
    try:
        import imageio_ffmpeg  # here: the one corruption that needs it, and the adapter installs without

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise AdaptError(
            f"h265_abr needs ffmpeg with libx265 ({error}): pip install 'earshot[codecs]', or leave this corruption out"
        ) from error


@cache
def _version(binary: str) -> str:
    """The first line of `ffmpeg -version`: another version may encode otherwise."""
    try:
        return subprocess.run(
            [binary, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        ).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise AdaptError(f"{binary} does not run as ffmpeg ({error}): reinstall imageio-ffmpeg") from error
