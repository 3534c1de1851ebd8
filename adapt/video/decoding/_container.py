"""A look into a file without decoding it: which container and codec, and whether decord finds its frames.

decord counts packets and seeks by key frames, which is right for most MP4 and WebM files, and wrong, or never ends,
where packets and frames are not one to one in order: hidden frames of a cut without encoding, B-frames in AVI, GOPs
that refer to the one before, lost packets.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import accumulate
from typing import NamedTuple, TypeAlias

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Discard, Disposition
from av.video.stream import VideoStream

from adapt.video.decoding import _log
from adapt.video.decoding._limits import MAX_PIXELS, UnreadableError, check_shape
from adapt.video.decoding._single import CONTAINERS, check_start, open_file

SEEKABLE = {"mov", "matroska", "flv"}  # containers in which decord seeks to the frame
TRUSTED = {
    "h264",
    "hevc",
    "vp8",
    "vp9",
    "mpeg4",
    "mjpeg",
}  # codecs of which a packet is a frame, where the checks below say so
# an MPEG-4 packet of fewer may hold no picture: a start code and a time are all that it needs then
NOT_CODED_BYTES = 12
VOP_START = b"\x00\x00\x01\xb6"  # before an MPEG-4 picture
IDR = 5  # the type of the NAL units of a picture that refers to none before
GENPTS = 0x4  # AVFMT_FLAG_GENPTS, which PyAV sets: times are taken as they are

VideoPacket: TypeAlias = "av.Packet[VideoStream]"


class Seen(NamedTuple):
    """A packet of the video track, without what is in it."""

    pts: int | None
    duration: int
    is_key: bool
    is_whole: bool  # neither hidden from players nor torn
    is_entry: bool  # a decoder may begin here: an IDR picture, where there is such a thing
    may_hide: bool  # may hold no picture that is shown


def open_container(path: str, stderr: _log.Stderr, *, decode: bool) -> InputContainer:
    """Open a file by its content, whatever its name ends in; `decode`: let FFmpeg decode what it wants to know of the
    tracks, else nothing is.

    Raises UnreadableError for what is no single video file.
    """
    options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
    options |= (
        {} if decode else {"codec_whitelist": "mpeg4"}
    )  # MP4 leaves its shape to the decoder, which reads it from the header
    with open_file(path) as file:
        check_start(file)
        try:
            container = av.open(
                f"file:/proc/self/fd/{file.fileno()}", options=options
            )  # a name without an ending, which FFmpeg would believe
        except FFmpegError as error:
            reason = _log.one_line(stderr.read()) or error.strerror or str(error)
            raise UnreadableError(
                f"no video can be opened ({'it is of no kind that is read here' if 'whitelist' in reason else reason})"
            ) from error
    container.flags &= ~GENPTS
    return container


def video_stream(container: InputContainer) -> VideoStream:
    """The video track that a player shows; only its packets will be read.  Raises UnreadableError for none, or too
    large frames.
    """
    found = container.streams.best("video")
    if not isinstance(found, VideoStream) or found.disposition & Disposition.attached_pic:
        raise UnreadableError("there is no video track")
    if found.codec_context is None:
        raise UnreadableError("no reader here knows the codec of its video track")
    if (
        found.codec_context.width and found.codec_context.height
    ):  # 0 where the header does not say: then each frame is looked at
        check_shape(found.codec_context.width, found.codec_context.height)
    for stream in container.streams:
        if stream is not found:
            stream.discard = Discard.all
    found.codec_context.thread_count = 1  # files are read side by side instead
    return found


def packets(container: InputContainer, stream: VideoStream) -> Iterator[VideoPacket]:
    """The packets of `stream` in the file's order, to its end or to where it cannot be read any more."""
    demuxed = container.demux(stream)
    while True:
        try:
            packet = next(demuxed)
        except (StopIteration, FFmpegError):  # as ffmpeg does: what came before is shown
            return
        if packet.size:
            yield packet


def survey(container: InputContainer, stream: VideoStream) -> list[Seen]:
    """All packets of the track, without decoding any."""
    codec = stream.codec_context.name
    is_entry = _entry_finder(codec, bytes(stream.codec_context.extradata or b""))
    may_hide = {"vp8": _hides_vp8, "vp9": _hides_vp9, "mpeg4": _hides_mpeg4}.get(codec, _hides_nothing)
    return [
        Seen(packet.pts, packet.duration or 0, is_key := packet.is_keyframe,
        not (packet.is_discard or packet.is_corrupt),
             is_key and is_entry(packet), may_hide(packet))
        for packet in packets(container, stream)
    ]  # fmt: skip


def _entry_finder(codec: str, extradata: bytes) -> Callable[[VideoPacket], bool]:
    """What says of a key packet whether all that follows can be decoded from it, whatever came before."""
    if codec == "h264":
        length = (extradata[4] & 3) + 1 if len(extradata) > 4 and extradata[0] == 1 else 0
        return lambda packet: (
            bool(length) and IDR in _unit_types(memoryview(packet), length)
        )  # not a mere recovery point
    return lambda packet: True


def _unit_types(data: memoryview, length: int) -> Iterator[int]:
    """The types of a packet's NAL units, each behind its size in `length` bytes (ISO/IEC 14496-15, ITU-T H.264 table
    7-1).
    """
    at = 0
    while at + length < len(data):
        yield data[at + length] & 0x1F
        at += length + int.from_bytes(data[at : at + length], "big")


def _hides_nothing(packet: VideoPacket) -> bool:
    """Whether a packet of any other codec holds no picture: none does."""
    return False


def _hides_vp8(packet: VideoPacket) -> bool:
    """Whether a packet holds no picture that is shown: its bit show_frame (RFC 6386, section 9.1)."""
    return not memoryview(packet)[0] & 0x10


def _hides_vp9(packet: VideoPacket) -> bool:
    """The same; a superframe is of hidden frames and one that is shown (VP9 bitstream specification, section 6.2 and
    annex B).
    """
    data = memoryview(packet)
    is_superframe, profile, shows_another = data[-1] & 0xE0 == 0xC0, data[0] >> 4 & 3, data[0] & 0x08
    return not is_superframe and (profile == 3 or not shows_another and not data[0] & 0x02)


def _hides_mpeg4(packet: VideoPacket) -> bool:
    """Whether a packet may not be one picture, shown when it is decoded: none ("nothing has changed"), several in one,
    or one that is shown later.

    So XviD makes files; a picture begins with VOP_START and its type in two bits, 2 for B (ISO/IEC 14496-2, section
    6.2.5).
    """
    data = bytes(packet)
    at = data.find(VOP_START) + len(VOP_START)
    return len(data) < NOT_CODED_BYTES or data.count(VOP_START) != 1 or data[at : at + 1] > b"\x7f"


def may_seek(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the file is of a kind that decord reads, if its packets are in order."""
    n_tracks = sum(not s.disposition & Disposition.attached_pic for s in container.streams.video)
    is_known = n_tracks == 1 and stream.codec_context.width * stream.codec_context.height > 0
    return (
        is_known and stream.codec_context.name in TRUSTED and not SEEKABLE.isdisjoint(container.format.name.split(","))
    )


def why_not_decord(found: Sequence[Seen]) -> str | None:
    """Why decord would not find the frames of a file by its packets, or None where it does: the first reason of
    several.
    """
    times = [packet.pts for packet in found if packet.pts is not None]
    reasons = {
        "no packets": not found,
        "hidden or torn packets": not all(packet.is_whole for packet in found),
        "packets that may hold no picture": any(packet.may_hide for packet in found),
        "no key frame first": not found or not found[0].is_key,
        "missing, negative or equal times": len(set(times)) != len(found) or min(times, default=0) < 0,
        "key frames that are no entry": not all(packet.is_entry for packet in found if packet.is_key),
    }
    return next((reason for reason, holds in reasons.items() if holds), None) or _open_group(found)


def _open_group(found: Sequence[Seen]) -> str | None:
    """Whether a frame is shown before the key frame that it comes after in the file, or after the one before which it
    comes.
    """
    times = [packet.pts or 0 for packet in found]
    latest_before = accumulate(times, max, initial=-1)
    earliest_after = [*accumulate(reversed(times), min)][::-1]
    for packet, time, before, after in zip(found, times, latest_before, earliest_after, strict=False):
        if packet.is_key and not before < time == after:
            return "groups of pictures that refer to the one before"
    return None


def duration_s(spans: Sequence[tuple[int, int]], time_base: Fraction | None) -> float:
    """Seconds from the first frame's start to the last one's end; `spans` are (start, duration), a duration of 0 not
    being known.
    """
    if not spans or time_base is None:
        return 0.0
    first, last = min(spans)[0], max(spans)
    mean = (last[0] - first) / max(1, len(spans) - 1)
    return float((last[0] + (last[1] or round(mean)) - first) * time_base)
