"""The sound side from mp4 to stored shards and logits, on 10 s clips made here, and what FLAC costs and saves.

`python -m tests.bench sound`; about three minutes.  FLAC is measured on the recordings of ../shared/photosound where
they lie beside the project, else on the demo's instruments.
"""

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import decode, tag, taggers
from pipeline.audio import sound
from pipeline.audio.soundfont import load_soundfont
from pipeline.demo.sounds import SAMPLE_RATE, STYLES, play
from tests.bench import Row
from tests.places import ROOT
from tests.sounds import encode, make_project, write_clips, write_wav

N_CLIPS, SECONDS, JOBS, RUNS = 32, 10, 2, 5
RECORDINGS = ROOT.parent / "shared/photosound/recordings"
N_RECORDINGS = 40


def rows() -> Iterator[Row]:
    """Storage, then the decode stage, then both stages."""
    with tempfile.TemporaryDirectory() as folder:
        for rate in (16000, 32000):
            yield from _storage(rate, Path(folder))
        with chdir(_project(Path(folder) / "project")):
            yield from _decode_rows()
            yield from _channel_rows()
            yield from _tag_rows()


def _cpu_s() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds of `work`, ffmpeg's included."""
    cpu_s, started = _cpu_s(), time.perf_counter()
    work()
    return time.perf_counter() - started, _cpu_s() - cpu_s


def _project(root: Path) -> Path:
    """A project whose data set `bench` has N_CLIPS clips, each 320 x 240 with stereo AAC at 44.1 kHz."""
    make_project(root)
    first = encode(
        root / "data/videos/bench/00.mp4", "-f", "lavfi", "-i",
        f"anoisesrc=duration={SECONDS}:sample_rate=44100:amplitude=0.3:seed=1",
        "-f", "lavfi", "-i", f"testsrc2=size=320x240:rate=25:duration={SECONDS}", "-ac", "2", "-c:a", "aac",
        "-c:v", "libx264", "-preset", "ultrafast",
    )  # fmt: skip
    names = [f"{i:02d}.mp4" for i in range(N_CLIPS)]
    for name in names[1:]:
        os.link(first, first.with_name(name))
    with chdir(root):
        write_clips("bench", names)
    return root


def _bare_ffmpeg() -> None:
    """The same sound from as many ffmpeg processes as the stage runs, thrown away."""

    def convert(path: Path) -> None:
        arguments = [
            "-nostdin",
            "-y",
            "-loglevel",
            "error",
            "-i",
            str(path),
            "-vn",
            "-ac",
            "1",
            "-ar",
            "16000",
            "-f",
            "s16le",
            "/dev/null",
        ]
        subprocess.run([sound.ffmpeg_binary("packaged"), *arguments], stdin=subprocess.DEVNULL, check=True)

    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(convert, sorted(Path("data/videos/bench").iterdir())))


def _decode() -> None:
    for table in ("audio", "waveforms"):
        shutil.rmtree(f"cache/bench/{table}", ignore_errors=True)
    decode.run(decode.Options("bench", "yamnet", jobs=JOBS))


def _decode_rows() -> Iterator[Row]:
    _decode()
    taken = [(_seconds(_bare_ffmpeg), _seconds(_decode)) for _ in range(RUNS)]
    wall, cpu = (statistics.median(bare[i] / stage[i] for bare, stage in taken) for i in (0, 1))
    yield Row("decode, mp4 to shards", statistics.median(stage[1] for _, stage in taken) / N_CLIPS, "CPU s/clip")
    yield Row(f"decode: speed of {JOBS} bare ffmpeg at a time, wall", wall, "x", ">= 0.8", wall >= 0.8)
    yield Row(f"decode: speed of {JOBS} bare ffmpeg at a time, CPU", cpu, "x", ">= 0.8", cpu >= 0.8)


def _channel_rows() -> Iterator[Row]:
    """What it costs to hear a track of two channels, against one of one, and one whose mix cancels, which is decoded
    twice.
    """
    source = (
        "-f",
        "lavfi",
        "-i",
        f"anoisesrc=duration={SECONDS}:sample_rate=44100:amplitude=0.3:seed=1",
        "-filter_complex",
    )
    graphs = {
        "mono": "[0]anull",
        "stereo": "[0]pan=stereo|c0=c0|c1=.9*c0",
        "stereo that cancels": "[0]pan=stereo|c0=c0|c1=-.9*c0",
    }
    paths = {name: encode(Path(f"{name}.m4a"), *source, graph, "-c:a", "aac") for name, graph in graphs.items()}
    decoder = sound.Decoder(sound.ffmpeg_binary("packaged"), 16000, -60.0)
    taken: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(4 * RUNS):
        for name, path in paths.items():
            taken[name].append(_seconds(lambda path=path: list(sound.stream(decoder, path)))[1])  # type: ignore[misc]
    for name in ("stereo", "stereo that cancels"):
        ratios = [a / b for a, b in zip(taken[name], taken["mono"], strict=True)]
        yield Row(f"one file, {SECONDS} s: {name} / mono", statistics.median(ratios), "x CPU")


def _tag() -> None:
    shutil.rmtree("cache/bench/tags", ignore_errors=True)
    tag.run(tag.Options("bench", "yamnet", jobs=JOBS))


def _tag_rows() -> Iterator[Row]:
    tag.run(tag.Options("bench", "yamnet"))
    taken = [(_seconds(_decode), _seconds(_tag)) for _ in range(RUNS)]
    sound_s = N_CLIPS * SECONDS
    wall_s, cpu_s = (statistics.median(both[0][i] + both[1][i] for both in taken) for i in (0, 1))
    on_two = 2 * sound_s / cpu_s  # by CPU seconds, since a wall clock tells of the machine's other work
    yield Row("yamnet, mp4 to logits: x real time on two cores of its own", on_two, "x", ">= 150", on_two >= 150)
    yield Row("yamnet, mp4 to logits: x real time by the wall clock", sound_s / wall_s, "x")
    tagger = taggers.build("yamnet")
    waveforms = np.random.default_rng(0).normal(0, 0.1, (8, SECONDS * tagger.sample_rate)).astype(np.float32)
    _, cpu_s = _seconds(lambda: [tagger.logits(waveforms, np.full(8, waveforms.shape[1])) for _ in range(5)])
    yield Row("yamnet alone, batch 8: seconds of sound a CPU second", 40 * SECONDS / cpu_s, "x")


def _storage(rate: int, folder: Path) -> Iterator[Row]:
    """Bytes a second of sound, and milliseconds of CPU to write and to read 10 s."""
    blocks, source = _real_sound(rate, folder)
    seconds = sum(block.size for block in blocks) / rate
    zstd = pa.Codec("zstd", compression_level=1)
    ways: dict[str, tuple[Callable[[sound.Block], bytes], Callable[[bytes, int], sound.Block]]] = {
        "raw int16": (lambda block: block.tobytes(), lambda data, _: np.frombuffer(data, "<i2").copy()),
        "zstd": (
            lambda block: zstd.compress(block.tobytes(), asbytes=True),
            lambda data, n: np.frombuffer(zstd.decompress(data, 2 * n), "<i2"),
        ),
        "FLAC": (lambda block: sound.write_flac(block, rate), lambda data, _: sound.read_flac(data)),
    }
    for name, (write, read) in ways.items():
        stored = [write(block) for block in blocks]
        if not all(np.array_equal(read(data, block.size), block) for data, block in zip(stored, blocks, strict=True)):
            raise ValueError(f"{name} does not give back what it was given")
        write_s = min(_own_cpu_s(lambda write=write: [write(block) for block in blocks]) for _ in range(3))  # type: ignore[misc]
        pairs = list(zip(stored, blocks, strict=True))
        read_s = min(
            _own_cpu_s(lambda read=read, pairs=pairs: [read(data, block.size) for data, block in pairs])  # type: ignore[misc]
            for _ in range(3)
        )
        what = f"{name}, {rate // 1000} kHz, {source}"
        yield Row(f"{what}: size", sum(map(len, stored)) / seconds, "bytes/s")
        yield Row(f"{what}: write 10 s", 1e4 * write_s / seconds, "CPU ms")
        yield Row(f"{what}: read 10 s", 1e4 * read_s / seconds, "CPU ms")


def _own_cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _real_sound(rate: int, folder: Path) -> tuple[list[sound.Block], str]:
    """(blocks of at most 30 s, where they come from)."""
    files, source = sorted(RECORDINGS.rglob("*.ogg"))[::16][:N_RECORDINGS], "recordings"
    if not files:
        files, source = _demo_phrases(folder), f"demo ({RECORDINGS} is not there)"
    decoder = sound.Decoder(sound.ffmpeg_binary("packaged"), rate, -60.0)
    blocks = [
        part for path in files for part in islice(sound.stream(decoder, path), 1) if not isinstance(part, sound.Heard)
    ]
    return blocks, source


def _demo_phrases(folder: Path) -> list[Path]:
    font, rng = load_soundfont(), np.random.default_rng(0)
    return [write_wav(folder / f"{label}.wav", play(label, font, rng), SAMPLE_RATE) for label in STYLES]
