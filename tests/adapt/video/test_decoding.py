"""Every file gives the frames that a player shows, in its order: the numbers that frames show are compared with those
in ffmpeg's own order.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import decord
import numpy as np
import pytest

from adapt.video.decoding import FRAMES_AT_ONCE, DecodeError, Decoders, FactsChangedError
from pipeline.datasets import ENDINGS
from tests import numbered

N = 120  # frames of a clip
GOP = ("-g", "40")
B = ("-bf", "2")
H264 = ("-c:v", "libx264", *GOP, "-bf", "3")
X265 = ("-c:v", "libx265", *GOP, "-x265-params")
KINDS = {
    "h264.mp4": (*H264,), "fragmented.mp4": (*H264, "-movflags", "frag_keyframe+empty_moov"),
    "moov first.mp4": (*H264, "-movflags", "+faststart"),
    "h264.mov": (*H264,), "h264.m4v": (*H264,), "h264.3gp": (*H264,), "h264.mkv": (*H264,), "h264.flv": (*H264,),
    "h264.ts": (*H264,),
    "h264.avi": (*H264,), "intra refresh.mp4": ("-c:v", "libx264", *GOP, "-x264-params", "intra-refresh=1"),
    "open gop.mkv": (*H264, "-x264-params", "open-gop=1"), "prores.mov": ("-c:v", "prores_ks"),
    "h263.3gp": ("-c:v", "h263", *GOP, "-s", "176x144"), "flv1.flv": ("-c:v", "flv", *GOP),
    "mpeg4.mp4": ("-c:v", "mpeg4", "-g", "12"), "mpeg4 b.mp4": ("-c:v", "mpeg4", *GOP, *B), "mpeg4.avi": ("-c:v",
    "mpeg4", *GOP),
    "mpeg4 b.avi": ("-c:v", "mpeg4", *GOP, *B, "-vtag", "XVID"), "xvid b.mp4": ("-c:v", "libxvid", *GOP, *B),
    "xvid b.avi": ("-c:v", "libxvid", *GOP, *B), "mjpeg.avi": ("-c:v", "mjpeg"),
    "mpeg1.mpg": ("-c:v", "mpeg1video", "-g", "12", *B), "mpeg2.mpeg": ("-c:v", "mpeg2video", "-g", "12", *B),
    "mpeg2.ts": ("-c:v", "mpeg2video", *GOP, *B), "wmv2.wmv": ("-c:v", "wmv2", *GOP), "theora.ogv": ("-c:v",
    "libtheora", *GOP, "-q:v", "9"),
    "vp8.webm": ("-c:v", "libvpx", *GOP, "-b:v", "800k"), "vp9.webm": ("-c:v", "libvpx-vp9", *GOP, "-b:v", "800k",
    "-cpu-used", "8"),
    "av1.webm": ("-c:v", "libaom-av1", *GOP, "-cpu-used", "8", "-crf", "20"), "av1.mp4": ("-c:v", "libaom-av1", *GOP,
    "-cpu-used", "8", "-crf", "20"),
    "hevc.mp4": (*X265, "log-level=none:open-gop=0"), "hevc open gop.mkv": (*X265, "log-level=none"),
    "vfr.mp4": (*H264, "-vf", "setpts='PTS+if(mod(N,7),0,1/TB/50)'", "-fps_mode", "passthrough", "-enc_time_base",
    "1/1000"),
}  # fmt: skip
BY_DECORD = {"h264.mp4", "fragmented.mp4", "moov first.mp4", "h264.mov", "h264.m4v", "h264.3gp", "h264.mkv",
"h264.flv", "mpeg4.mp4", "vp8.webm",
             "vp9.webm", "hevc.mp4", "vfr.mp4"}  # fmt: skip


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with Decoders() as made:
        yield made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which clips lie once they are made."""
    return tmp_path_factory.mktemp("made")


def kind(folder: Path, name: str) -> Path:
    """The clip of that kind."""
    return folder / name if (folder / name).exists() else numbered.write(folder / name, range(N), *KINDS[name])


def seen(decoders: Decoders, path: Path, indices: list[int] | None = None) -> list[int]:
    """The numbers of the frames at `indices`, or of all."""
    with decoders.open(path) as video:
        try:
            return [
                n for chunk in video.frames(indices or range(video.facts.n_frames)) for n in numbered.numbers(chunk)
            ]
        except FactsChangedError:
            return [
                n for chunk in video.frames(indices or range(video.facts.n_frames)) for n in numbered.numbers(chunk)
            ]


def check_as_played(decoders: Decoders, path: Path, size: tuple[int, int] = (64, 192)) -> None:
    """Assert that `path` gives ffmpeg's frames: all in order, and any few by their index."""
    shown = numbered.played(path, size)
    assert seen(decoders, path) == shown
    for k in (1, 8, 24):
        indices = sorted(random.Random(k).sample(range(len(shown)), min(k, len(shown))))  # noqa: S311
        assert seen(decoders, path, indices) == [shown[i] for i in indices]


def test_the_kinds_tried_are_of_every_ending_that_is_taken_for_a_video() -> None:
    assert {Path(name).suffix for name in KINDS} == set(ENDINGS)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_gives_the_frames_that_a_player_shows_and_says_who_read_them(
    decoders: Decoders, made: Path, name: str
) -> None:
    path = kind(made, name)
    facts = decoders.probe(path)
    assert facts.reader == ("decord" if name in BY_DECORD else "pyav")
    assert N - 2 * ("xvid" in name) <= facts.n_frames <= N  # libxvid keeps its last pictures to itself
    if "vfr" not in name:
        assert facts.duration_s == pytest.approx(facts.n_frames / 25, abs=0.05)
    check_as_played(decoders, path, (144, 176) if "h263" in name else (64, 192))


def test_frames_of_mp4_are_bit_for_bit_what_decord_gives(decoders: Decoders, made: Path) -> None:
    for name in ("h264.mp4", "mpeg4.mp4", "vfr.mp4"):
        path, indices = kind(made, name), list(range(1, N, 3))
        with decoders.open(path) as video:
            frames = np.concatenate([chunk.copy() for chunk in video.frames(indices)])
        assert (frames == decord.VideoReader(str(path), num_threads=1).get_batch(indices).asnumpy()).all()


@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4", "vp9.webm"])
def test_both_readers_make_the_same_pixels(decoders: Decoders, made: Path, name: str) -> None:
    """The same stream in AVI or TS, which PyAV reads, has the pixels that decord makes of it."""
    path = kind(made, name)
    other = path.with_name(f"{path.stem} again{'.avi' if name == 'vp9.webm' else '.ts'}")
    numbered.ffmpeg("-i", path, "-c", "copy", other)
    assert decoders.probe(other).reader == "pyav"
    frames = []
    for one in (path, other):
        with decoders.open(one) as video:
            frames.append(np.concatenate([chunk.copy() for chunk in video.frames(range(0, N, 10))]))
    assert (frames[0] == frames[1]).all()


@pytest.fixture(scope="module")
def long(made: Path) -> Path:
    """20 s with a key frame every 250 frames."""
    return numbered.write(made / "long.mp4", range(600), "-c:v", "libx264", "-g", "250", "-bf", "3", fps=30)


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "ts"])
def test_a_cut_without_encoding_gives_what_a_player_shows_of_it(
    decoders: Decoders, long: Path, tmp_path: Path, ending: str
) -> None:
    """The cut of the report, whose packets go back to the key frame at 500, and more."""
    for start_s, length_s in ((16, 3.5), (11.2, 4), (8.4, 1)):
        path = tmp_path / f"{start_s}.{ending}"
        numbered.ffmpeg("-ss", start_s, "-t", length_s, "-i", long, "-c", "copy", path)
        check_as_played(decoders, path)
        if ending in ("mp4", "mov"):
            shown = seen(decoders, path)
            assert shown == sorted(set(shown)) and shown[0] == pytest.approx(30 * start_s, abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "ts", "avi", "flv"])
def test_thirty_random_cuts_give_what_a_player_shows(
    decoders: Decoders, long: Path, tmp_path: Path, ending: str
) -> None:
    chance = random.Random(0)  # noqa: S311
    for i in range(30):
        path = tmp_path / f"{i}.{ending}"
        numbered.ffmpeg(
            "-ss", f"{chance.uniform(0, 17):.2f}", "-t", f"{chance.uniform(1, 5):.2f}", "-i", long, "-c", "copy", path
        )
        check_as_played(decoders, path)


@pytest.mark.parametrize("name", ["h264.avi", "mpeg4 b.avi", "h264.ts", "h264.mkv", "h264.flv", "moov first.mp4",
"fragmented.mp4", "mpeg1.mpg",
                                  "wmv2.wmv", "theora.ogv", "vp9.webm"])  # fmt: skip
@pytest.mark.parametrize("share", [0.5, 0.93])
def test_a_file_cut_short_gives_what_a_player_shows_of_it(
    decoders: Decoders, made: Path, tmp_path: Path, name: str, share: float
) -> None:
    whole = kind(made, name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: int(len(whole) * share)])
    if numbered.played(path):
        check_as_played(decoders, path)
    else:
        with pytest.raises(DecodeError, match=r"no video can be opened \((error reading header|End of file)\)"):
            decoders.probe(path)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "flv", "avi"])
def test_a_file_without_its_first_key_frame_begins_where_a_player_begins(
    decoders: Decoders, made: Path, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"a.{ending}"
    numbered.ffmpeg("-i", kind(made, "h264.mp4"), "-c", "copy", "-bsf:v", "noise=amount='0':drop='eq(n,0)'", path)
    assert decoders.probe(path).reader == "pyav"
    check_as_played(decoders, path)


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("name", ["h264.mp4", "hevc.mp4", "open gop.mkv"])
def test_a_film_taken_upright_is_turned_as_a_player_turns_it(
    decoders: Decoders, made: Path, tmp_path: Path, degrees: int, name: str
) -> None:
    path = tmp_path / "turned.mp4"
    numbered.ffmpeg("-display_rotation", degrees, "-i", kind(made, name), "-c", "copy", path)
    raw = np.frombuffer(
        numbered.ffmpeg("-i", path, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"), np.uint8
    )
    shown = raw.reshape(N, *((64, 192) if degrees == 180 else (192, 64)), 3)
    with decoders.open(path) as video:
        frames = np.concatenate([chunk.copy() for chunk in video.frames(range(N))])
    assert (frames == shown).all()


def test_hidden_packets_of_vp8_and_vp9_are_no_frames(decoders: Decoders, made: Path, tmp_path: Path) -> None:
    """The bit show_frame of one packet, found by its bytes, is put out by hand: ffmpeg shows a frame less."""
    import av

    for name, bit in (("vp8.webm", 0x10), ("vp9.webm", 0x02)):
        path = kind(made, name)
        with av.open(str(path)) as container:
            packets = [bytes(p) for p in container.demux(video=0) if p.size and bytes(p)[-1] & 0xE0 != 0xC0]
        whole = path.read_bytes()
        packet = next(p for p in packets[60:] if whole.count(p) == 1)
        hidden = tmp_path / name
        hidden.write_bytes(whole.replace(packet, bytes([packet[0] & ~bit]) + packet[1:]))
        assert decoders.probe(hidden).n_frames == N - 1
        check_as_played(decoders, hidden)


def test_what_a_file_is_counts_and_not_what_its_name_ends_in(decoders: Decoders, made: Path, tmp_path: Path) -> None:
    for name, ending, reader in (
        ("h264.mp4", "avi", "decord"),
        ("h264.avi", "mp4", "pyav"),
        ("mpeg1.mpg", "mp4", "pyav"),
    ):
        path = tmp_path / f"{name}.{ending}"
        path.write_bytes(kind(made, name).read_bytes())
        assert decoders.probe(path).reader == reader
        check_as_played(decoders, path)


@pytest.mark.parametrize("width", [16, 24, 32, 48, 72, 333])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_narrow_and_odd_widths_are_read_whoever_can(
    decoders: Decoders, tmp_path: Path, width: int, ending: str
) -> None:
    """Decord opens those of 16, 24, 48 and 72 pixels, and then gives no batch of frames."""
    path = numbered.write(
        tmp_path / f"a.{ending}", range(12), "-c:v", "libx264", "-crf", "1", "-pix_fmt", "yuv444p", size=(32, width)
    )
    assert decoders.probe(path).n_frames == 12
    with decoders.open(path) as video:
        assert [chunk.shape for chunk in video.frames(range(12))] == [(12, 32, width, 3)]
    check_as_played(decoders, path, (32, width))


def test_damage_inside_a_file_that_decord_gives_up_on_is_read_on_by_pyav(
    decoders: Decoders, made: Path, tmp_path: Path
) -> None:
    """A packet in six claims to be longer than it is; which bytes an encoder writes hangs on the machine."""
    import av

    whole = kind(made, "h264.mp4").read_bytes()
    with av.open(str(made / "h264.mp4")) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size and not p.is_keyframe]
    for packet in packets[60::6]:
        whole = whole.replace(packet, b"\x00\xff\xff\xff" + packet[4:])
    path = tmp_path / "damaged.mp4"
    path.write_bytes(whole)
    with decoders.open(path) as video:
        assert video.facts.reader == "decord"
        with pytest.raises(FactsChangedError, match="PyAV finds"):
            list(video.frames(range(N)))
        assert video.facts.reader == "pyav"
    check_as_played(decoders, path)


def test_frames_come_in_chunks_that_stay_small_however_large_they_are(decoders: Decoders, tmp_path: Path) -> None:
    path = numbered.write(
        tmp_path / "large.mp4", range(10), "-c:v", "libx264", "-preset", "ultrafast", size=(2304, 4096)
    )
    with decoders.open(path) as video:
        sizes = [chunk.shape[0] for chunk in video.frames(range(10))]
    assert sum(sizes) == 10 and max(sizes) * 2304 * 4096 * 3 <= 128 << 20
    path = numbered.write(tmp_path / "small.mp4", range(40), "-c:v", "libx264")
    with decoders.open(path) as video:
        assert [len(chunk) for chunk in video.frames(range(40))] == [FRAMES_AT_ONCE, 40 - FRAMES_AT_ONCE]
        with pytest.raises(IndexError, match="no indices in order of 40 frames"):
            next(video.frames([3, 2]))
        with pytest.raises(IndexError, match="no indices in order of 40 frames"):
            next(video.frames([40]))


def test_who_takes_his_time_between_two_chunks_gets_the_next_one(decoders: Decoders, made: Path) -> None:
    for name in ("h264.mp4", "h264.avi"):
        with decoders.open(kind(made, name)) as video:
            chunks = video.frames(range(64))
            assert numbered.numbers(next(chunks)) == list(range(32))
            time.sleep(1.5)
            assert numbered.numbers(next(chunks)) == list(range(32, 64))


@pytest.mark.parametrize(("name", "size", "message"), [
    ("a.mp4", "16000x4", "16000 x 4 pixels: one side is more than 32 times the other: crop the video"),
    ("a.mkv", "4x16000", "4 x 16000 pixels: one side is more than 32 times the other: crop the video"),
    ("a.mkv", "16384x8192", "16384 x 8192 pixels are more than 35,389,440: make the video smaller"),
])  # fmt: skip
def test_a_shape_that_would_cost_too_much_is_refused_before_it_is_decoded(
    decoders: Decoders, tmp_path: Path, name: str, size: str, message: str
) -> None:
    path = tmp_path / name
    codec = ("-c:v", "libx264", "-preset", "ultrafast") if name == "a.mp4" else ("-c:v", "ffv1")
    numbered.ffmpeg("-f", "lavfi", "-i", f"color=size={size}:rate=1:duration=1", *codec, "-pix_fmt", "yuv420p", path)
    started = time.monotonic()
    with pytest.raises(DecodeError) as refused:
        decoders.probe(path)
    assert str(refused.value) == message
    assert time.monotonic() - started < 5


def test_a_shape_that_only_the_decoder_knows_is_refused_too(decoders: Decoders, tmp_path: Path) -> None:
    path = tmp_path / "a.ts"  # whose header says nothing of shapes
    numbered.ffmpeg("-f", "lavfi", "-i", "color=size=4000x64:rate=2:duration=1", "-c:v", "libx264", path)
    with pytest.raises(DecodeError, match="4000 x 64 pixels: one side is more than 32 times the other"):
        decoders.probe(path)
