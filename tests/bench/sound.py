"""The sound side from mp4 to logits: CPU seconds a clip and stage with YAMNet, on 10 s clips made here."""
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline import decode, taggers
from pipeline.engine import map_clips
from tests.bench import Row
from tests.sounds import encode

N_CLIPS, SECONDS = 16, 10


def _cpu_s() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def rows() -> Iterator[Row]:
    """Decode (ffmpeg included), then tag."""
    tagger = taggers.build("yamnet")
    decoder = decode.Decoder(decode.ffmpeg_binary("packaged"), tagger.sample_rate, -60.0)
    with tempfile.TemporaryDirectory() as folder:
        source = ("-f", "lavfi", "-i", f"anoisesrc=duration={SECONDS}:amplitude=0.3:seed=1", "-c:a", "aac", "-shortest")
        path = encode(Path(folder) / "noise.mp4", *source)
        started = _cpu_s()
        decoded = list(map_clips(lambda p: decode.decode_file(decoder, p), [path] * N_CLIPS, 2))
        yield Row(f"decode to {tagger.sample_rate} Hz mono, {SECONDS} s clips", (_cpu_s() - started) / N_CLIPS, "CPU s/clip")
    pcm = decoded[0]["pcm"]
    assert isinstance(pcm, bytes)
    waveforms = np.repeat(np.frombuffer(pcm, "<i2")[None], 8, 0).astype(np.float32) / np.float32(32768)
    lengths = np.full(8, waveforms.shape[1])
    tagger.logits(waveforms, lengths)
    started = _cpu_s()
    for _ in range(5):
        tagger.logits(waveforms, lengths)
    taken = (_cpu_s() - started) / 40
    yield Row(f"yamnet, {SECONDS} s clips, batch 8", taken, "CPU s/clip")
    yield Row("yamnet, seconds of sound per CPU second", SECONDS / taken, "x", ">= 150", SECONDS / taken >= 150)
