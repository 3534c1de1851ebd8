"""The taggers: Cnn14's speed against the loop of panns_inference's README and against bare convolutions, precision,
memory, and what they get right.

`python -m tests.bench taggers`; about seven minutes.  Cnn14's weights are random.  What needs the weights and
recordings of ../shared is left out, with a note, where they do not lie beside the project.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pipeline import decode, tag, taggers
from pipeline.audio import sound
from pipeline.taggers import yamnet
from pipeline.taggers._convolution import Convolution, Step
from tests import networks
from tests.bench import Row
from tests.places import ROOT
from tests.sounds import encode, make_project, write_clips

SECONDS, N_CLIPS, N_STAGES, N_README, RUNS, BATCH, THREADS = 10, 8, 32, 4, 3, 8, 2
SHARED = ROOT.parent / "shared"
RECORDINGS, WEIGHTS = SHARED / "photosound/recordings", SHARED / "weights/mn04_as_mAP_432.pt"
WIDTHS = (
    1,
    64,
    64,
    128,
    128,
    256,
    256,
    512,
    512,
    1024,
    1024,
    2048,
    2048,
)  # Cnn14's channels, convolution by convolution
ANIMALS = {
    "cat": ("Cat", "Purr", "Meow", "Hiss", "Caterwaul"),
    "dog": ("Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)"),
    "bird": (
        "Bird",
        "Bird vocalization, bird call, bird song",
        "Chirp, tweet",
        "Squawk",
        "Pigeon, dove",
        "Coo",
        "Crow",
        "Caw",
        "Owl",
        "Hoot",
    ),
    "frog": ("Frog", "Croak"),
}
# Not getrusage, whose peak a process inherits from the one that started it.
PEAK = "print(next(int(line.split()[1]) / 1024 for line in open('/proc/self/status') if line.startswith('VmHWM')))"
BARE_NETWORK = """
import torch
from tests import networks
network = networks.cnn14().eval()
with torch.no_grad():
    network(torch.zeros({batch}, 320000))
"""
OURS = """
import numpy as np
from pipeline import taggers
panns = taggers.build("panns", {checkpoint!r}, precision={precision!r})
panns.logits(np.zeros(({batch}, 320000), np.float32), np.full({batch}, 320000))
"""
Floats = npt.NDArray[np.float32]


def rows() -> Iterator[Row]:
    """Speed, precision and memory of Cnn14; speed of the others; zero-shot accuracy."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    search_path = os.environ["PATH"]
    try:
        with tempfile.TemporaryDirectory() as folder, chdir(ROOT):
            (Path(folder) / "ffmpeg").symlink_to(sound.ffmpeg_binary("packaged"))
            os.environ["PATH"] = f"{folder}{os.pathsep}{search_path}"  # librosa looks there for what reads video
            checkpoint, network = _save(networks.cnn14(), Path(folder) / "Cnn14.pth")
            yield from _cnn14_rows(network, checkpoint, Path(folder))
            yield from _precision_rows(network, checkpoint)
            yield from _memory_rows(checkpoint)
            yield from _other_rows(Path(folder))
            yield from _zero_shot_rows()
    finally:
        os.environ["PATH"] = search_path
        torch.set_num_threads(n_threads)


def _save(network: nn.Module, path: Path) -> tuple[str, nn.Module]:
    """A checkpoint of the published form, with norms that are neither idle nor extreme."""
    settled = networks.settle(network, torch.from_numpy(_noise(4, 32000)))
    torch.save({"model": settled.state_dict()}, path)
    return str(path), settled


def _noise(n_rows: int, n_samples: int) -> Floats:
    """Rows from soft to loud."""
    loudness = np.logspace(-2, 0, n_rows)[:, None]
    return (loudness * np.random.default_rng(0).normal(0, 0.3, (n_rows, n_samples))).astype(np.float32)


def _cpu_s(work: Callable[[], object], n_clips: int) -> float:
    """CPU seconds a clip, ffmpeg's included."""
    before = os.times()
    work()
    after = os.times()
    return sum(after[:4][i] - before[:4][i] for i in range(4)) / n_clips


def _cnn14_rows(network: nn.Module, checkpoint: str, folder: Path) -> Iterator[Row]:
    """Files to logits.  Ratios are medians over runs, in each of which every way takes its turn."""
    path = encode(
        folder / "noise.mp4", "-f", "lavfi", "-i",
        f"anoisesrc=duration={SECONDS}:sample_rate=44100:amplitude=0.3:seed=1",
        "-f", "lavfi", "-i", f"testsrc2=size=320x240:rate=25:duration={SECONDS}", "-ac", "2", "-c:a", "aac", "-c:v",
        "libx264",
    )  # fmt: skip
    ours = {precision: taggers.build("panns", checkpoint, precision=precision) for precision in ("fp32", "bf16")}
    project = _project(folder / "project", path)
    decoder = sound.Decoder(sound.ffmpeg_binary("packaged"), 32000, -60.0)
    ways: dict[str, tuple[int, Callable[[], object]]] = {
        "README loop": (N_README, lambda: [_readme(network, path) for _ in range(N_README)])
    }
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        ways[precision] = N_CLIPS, partial(_files_to_logits, ours[precision], decoder, [path] * N_CLIPS)
        ways[f"decode and tag, {precision}"] = N_STAGES, partial(_stages, project, checkpoint, precision)
        ways[f"bare convolutions, {precision}"] = N_CLIPS, _bare_convolutions(dtype, 8, _conv2d)
        ways[f"bare convolutions as ours, {precision}"] = N_CLIPS, _bare_convolutions(dtype, 2, _turned)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(RUNS + 1):
        for name, (n_clips, work) in ways.items():
            cpu_s = _cpu_s(work, n_clips)
            taken[name] += [cpu_s] if run else []  # the first run is not counted
    for name, values in taken.items():
        yield Row(f"Cnn14, {name}", statistics.median(values), "CPU s/clip")
    for precision, times in (("fp32", 1.45), ("bf16", 2.2)):
        stages, bare = taken[f"decode and tag, {precision}"], taken[f"bare convolutions, {precision}"]
        yield _ratio(f"Cnn14 {precision}, both stages: README loop / ours", taken["README loop"], stages, times)
        yield _ratio(f"Cnn14 {precision}, both stages: bare convolutions / ours", bare, stages, 0.8)
        yield Row(
            f"Cnn14 {precision}, mp4 to logits in memory: README loop / ours",
            _median_ratio(taken["README loop"], taken[precision]),
            "x",
        )
        limit = [a / b for a, b in zip(taken[f"bare convolutions as ours, {precision}"], taken[precision], strict=True)]
        yield Row(f"Cnn14 {precision}, mp4 to logits: bare convolutions as ours / ours", statistics.median(limit), "x")
    waveforms = _noise(BATCH, SECONDS * 32000)
    for precision, tagger in ours.items():
        for batch in (1, 4, 8):
            cpu_s = min(_cpu_s(partial(_hear, tagger, waveforms, batch), BATCH) for _ in range(3))
            yield Row(f"Cnn14 {precision}, waveforms to logits, batch {batch}", cpu_s, "CPU s/clip")


def _project(root: Path, clip: Path) -> Path:
    """A project whose data set `bench` is N_STAGES times the same clip."""
    names = [f"{i:02d}{clip.suffix}" for i in range(N_STAGES)]
    with chdir(make_project(root)):
        Path("data/videos/bench").mkdir(parents=True)
        for name in names:
            os.link(clip, Path("data/videos/bench") / name)
        write_clips("bench", names)
    return root


def _stages(project: Path, checkpoint: str, precision: str) -> None:
    """From files to Parquet, and from Parquet to Parquet, with all that a stage does; loading the checkpoint
    included.
    """
    with chdir(project):
        shutil.rmtree("cache/bench/tags", ignore_errors=True)
        for table in ("audio", "waveforms"):
            shutil.rmtree(f"cache/bench/{table}", ignore_errors=True)
        decode.run(decode.Options("bench", "panns"))
        tag.run(tag.Options("bench", "panns", checkpoint=checkpoint, precision=precision))


def _median_ratio(theirs: list[float], ours: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def _ratio(name: str, theirs: list[float], ours: list[float], target: float) -> Row:
    value = _median_ratio(theirs, ours)
    return Row(name, value, "x", f">= {target}", value >= target)


def _readme(network: nn.Module, path: Path) -> object:
    """What the README of panns_inference suggests for a file; AudioTagging.inference calls the network so."""
    with warnings.catch_warnings(
        action="ignore"
    ):  # librosa reads video by way of audioread, and warns that it will not for ever
        audio, _ = librosa.load(path, sr=32000, mono=True)
    with torch.no_grad():
        return network(torch.from_numpy(audio[None]).float())["clipwise_output"].numpy()


def _files_to_logits(tagger: taggers.Tagger, decoder: sound.Decoder, paths: list[Path]) -> Floats:
    waveforms = np.stack([_decoded(decoder, path, SECONDS) for path in paths])
    return tagger.logits(waveforms, np.full(len(paths), waveforms.shape[1]))


def _decoded(decoder: sound.Decoder, path: Path, seconds: int) -> Floats:
    """The first `seconds` of a file, fewer where it ends."""
    blocks = [part for part in sound.stream(decoder, path) if not isinstance(part, sound.Heard)]
    samples = np.concatenate([np.empty(0, np.int16), *blocks])[: seconds * decoder.sample_rate]
    return samples.astype(np.float32) / np.float32(sound.FULL_SCALE)


def _bare_convolutions(
    dtype: torch.dtype, n_at_once: int, layer: Callable[[torch.Tensor], tuple[Step, bool]]
) -> Callable[[], None]:
    """Cnn14's twelve convolutions alone, N_CLIPS times, on maps of their shapes, channels last."""
    frames, mels, pairs = 1 + SECONDS * 100, 64, []
    for i, (n_in, n_out) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False)):
        convolution, turned = layer(torch.randn(n_out, 3, 3, n_in).to(dtype).permute(0, 3, 1, 2))
        x = torch.randn(n_at_once, *((mels, frames) if turned else (frames, mels)), n_in).to(dtype).permute(0, 3, 1, 2)
        pairs.append((convolution, x))
        frames, mels = (frames // 2, mels // 2) if i % 2 and i < 11 else (frames, mels)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(N_CLIPS // n_at_once):
                for convolution, x in pairs:
                    convolution(x)

    return run


def _conv2d(weight: torch.Tensor) -> tuple[Step, bool]:
    """As the package has it, without norm and activation: maps (time, mel)."""
    return lambda x: nn.functional.conv2d(x, weight, padding=1), False


def _turned(weight: torch.Tensor) -> tuple[Step, bool]:
    """As ours: weights laid out once, maps (mel, time)."""
    return Convolution(weight, torch.zeros(len(weight), dtype=weight.dtype), 1, 1, 1, "none"), True


def _hear(tagger: taggers.Tagger, waveforms: Floats, batch: int) -> Floats:
    parts = [waveforms[i : i + batch] for i in range(0, len(waveforms), batch)]
    return np.concatenate([tagger.logits(part, np.full(len(part), part.shape[1])) for part in parts])


def _precision_rows(network: nn.Module, checkpoint: str) -> Iterator[Row]:
    """How far logits are from the package's, and half precision from single."""
    waveforms = _noise(4, SECONDS * 32000)
    with torch.inference_mode():
        package = networks.cnn14_logits(network, torch.from_numpy(waveforms)).numpy()
    single, half = (
        _hear(taggers.build("panns", checkpoint, precision=precision), waveforms, 4) for precision in ("fp32", "bf16")
    )
    yield Row("Cnn14: spread of the logits", float(package.std()), "logit std")
    yield from _difference_rows("Cnn14, fp32 - package", single - package)
    yield from _difference_rows("Cnn14, bf16 - fp32", half - single)


def _difference_rows(name: str, difference: Floats) -> Iterator[Row]:
    yield Row(f"{name}, largest", float(np.abs(difference).max()), "logit")
    yield Row(f"{name}, mean", float(np.abs(difference).mean()), "logit")


def _memory_rows(checkpoint: str) -> Iterator[Row]:
    """Peaks of processes of their own, from import to logits."""
    bare = _peak_mb(BARE_NETWORK.format(batch=BATCH))
    yield Row(f"Cnn14 of the package, batch {BATCH}: peak", bare, "MB")
    for precision in ("fp32", "bf16"):
        above = _peak_mb(OURS.format(checkpoint=checkpoint, precision=precision, batch=BATCH)) - bare
        yield Row(f"Cnn14 {precision}, batch {BATCH}: peak above the package's", above, "MB", "<= 300", above <= 300)


def _peak_mb(code: str) -> float:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", f"{code}\n{PEAK}"]
    return float(
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.split()[
            -1
        ]
    )


def _other_rows(folder: Path) -> Iterator[Row]:
    """CPU seconds of the smaller taggers, and where yamnet's go."""
    plain: dict[str, nn.Module] = {"Cnn6": networks.Cnn(5), "Cnn10": networks.Cnn(3)}
    plain |= {"MobileNetV1": networks.MobileNetV1(), "MobileNetV2": networks.MobileNetV2()}
    for variant, network in plain.items():
        checkpoint, _ = _save(network, folder / f"{variant}.pth")
        for precision in ("fp32", "bf16"):
            tagger = taggers.build("panns", checkpoint, variant=variant, precision=precision)
            yield Row(f"{variant} {precision}, batch {BATCH}", _best_cpu_s(tagger), "CPU s/clip")
    if WEIGHTS.is_file():
        for precision in ("fp32", "bf16"):
            tagger = taggers.build("efficientat", str(WEIGHTS), precision=precision)
            yield Row(f"efficientat {precision}, batch {BATCH}", _best_cpu_s(tagger), "CPU s/clip")
    hearing = yamnet.build("", "cpu", "w8a8", "fp32")
    yield Row(f"yamnet, batch {BATCH}", _best_cpu_s(hearing), "CPU s/clip")
    waveforms = _noise(BATCH, SECONDS * 16000)
    mel = yamnet.mel_bank()
    yield Row(
        "yamnet, of that its log-mel",
        min(_own_cpu_s(lambda: [yamnet.log_mel(row, mel) for row in waveforms]) for _ in range(3)),
        "CPU s/clip",
    )


def _best_cpu_s(tagger: taggers.Tagger) -> float:
    waveforms = _noise(BATCH, SECONDS * tagger.sample_rate)
    return min(_own_cpu_s(partial(_hear, tagger, waveforms, BATCH)) for _ in range(4))


def _own_cpu_s(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return (time.process_time() - started) / BATCH


def _zero_shot_rows() -> Iterator[Row]:
    """Which of four animals a recording is, by the loudest class of each; the first 10 s, no training."""
    if not RECORDINGS.is_dir() or not WEIGHTS.is_file():
        print(f"zero-shot accuracy left out: {RECORDINGS} or {WEIGHTS} is not there", file=sys.stderr)
        return
    files = [(truth, path) for truth, animal in enumerate(ANIMALS) for path in sorted((RECORDINGS / animal).iterdir())]
    truths = np.array([truth for truth, _ in files])
    single = taggers.build("efficientat", str(WEIGHTS))
    sounds = {
        rate: [_decoded(sound.Decoder(sound.ffmpeg_binary("packaged"), rate, -60.0), path, 10) for _, path in files]
        for rate in (32000, 16000)
    }
    logits = _each(single, sounds[32000])
    right = _share_right(single, logits, truths)
    yield Row(f"efficientat: cat, dog, bird or frog, {len(files)} recordings", right, "%", ">= 85", right >= 85)
    half = taggers.build("efficientat", str(WEIGHTS), precision="bf16")
    in_half = _each(half, sounds[32000])
    yield Row("efficientat in bf16, the same", _share_right(half, in_half, truths), "%")
    yield Row("efficientat: spread of the logits", float(logits.std()), "logit std")
    yield from _difference_rows("efficientat, bf16 - fp32", in_half - logits)
    hearing = taggers.build("yamnet")
    yield Row("yamnet, the same recordings", _share_right(hearing, _each(hearing, sounds[16000]), truths), "%")


def _each(tagger: taggers.Tagger, sounds: list[Floats]) -> Floats:
    return np.concatenate([tagger.logits(samples[None], np.array([samples.size])) for samples in sounds])


def _share_right(tagger: taggers.Tagger, logits: Floats, truths: npt.NDArray[np.int64]) -> float:
    """Percent of the recordings whose animal has the loudest class."""
    columns = [[tagger.labels.index(name) for name in names if name in tagger.labels] for names in ANIMALS.values()]
    chosen = np.argmax([logits[:, names].max(1) for names in columns], axis=0)
    return 100 * float((chosen == truths).mean())
