"""tag: windows of sound become logits, once, whatever the batch."""

import io
import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from adapt import command
from adapt.errors import CacheError, TaggerError
from adapt.tables import parquet
from adapt.tables.files import sha256_text
from pipeline import decode, tag, taggers
from pipeline.audio import perturb
from pipeline.workers import shards
from tests.places import ROOT
from tests.sounds import encode, make_project, write_clips

RATE = 100  # of the fake tagger, in Hz
LABELS = ["Mean", "Loudness", "Length"]
OPTIONS = tag.Options("tiny", "fake", window_s=2.0, hop_s=1.0, batch_size=2)


@dataclass
class FakeTagger:
    """Answers with facts of the waveform, and remembers what it was given."""

    checkpoint_sha256: str = "0" * 64
    name: str = "fake"
    sample_rate: int = RATE
    concurrent: bool = True
    labels: list[str] = field(default_factory=lambda: LABELS)
    labels_file: Path = Path("data/labels/fake.csv")
    seen: list[np.ndarray] = field(default_factory=list)

    def provenance(self) -> dict[str, str]:
        return {"tagger": self.name, "checkpoint_sha256": self.checkpoint_sha256, "code_version": "7"}

    def logits(self, waveforms: np.ndarray, n_samples: np.ndarray) -> np.ndarray:
        self.seen.append(waveforms)
        return np.stack([waveforms.sum(axis=1) / n_samples, np.abs(waveforms).max(axis=1), n_samples], axis=1).astype(
            np.float32
        )


@pytest.fixture
def tagger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTagger:
    """A fake tagger in a project of its own."""
    monkeypatch.chdir(make_project(tmp_path))
    fake = FakeTagger()
    monkeypatch.setattr(taggers, "build", lambda *_: fake)
    return fake


BLOCK = 100  # samples: tag takes blocks as they come


def write_audio(clips: dict[str, np.ndarray], sample_rate: int = RATE, statuses: dict[str, str] | None = None) -> None:
    """Fill clips, audio and waveforms as `scan` and `decode` do."""
    listed, audio, waveforms = [], [], []
    settings = decode.Settings("path", sample_rate, -60.0, "default", True, perturb.Perturbation())
    made_by = {"decoder": settings.to_json(), "ffmpeg": "9.0"}
    for clip_id, samples in sorted(clips.items()):
        content = sha256_text(samples.tobytes().hex())
        key = sha256_text("decode", decode.VERSION, "9.0", settings.key(), content)
        listed.append(
            {"clip_id": clip_id, "path": f"{clip_id}.mp4", "split": "test", "label_id": 0, "label": "any",
             "status": "ok", "content_sha256": content}
        )  # fmt: skip
        blocks = [samples[i : i + BLOCK] for i in range(0, samples.size, BLOCK)]
        levels = dict.fromkeys(("track", "mix", "expected_s", "level_dbfs", "rms_dbfs", "peak_dbfs", "error"))
        audio.append(
            levels | {"clip_id": clip_id, "status": (statuses or {}).get(clip_id, "ok"), "sample_rate": sample_rate,
            "n_channels": 1,
                      "duration_s": samples.size / sample_rate, "n_samples": samples.size, "n_blocks": len(blocks),
                      "cache_key": key}
        )  # fmt: skip
        waveforms += [
            {"clip_id": clip_id, "block": i, "n_samples": len(b), "flac": flac(b), "cache_key": key}
            for i, b in enumerate(blocks)
        ]
    parquet.write_table(Path("cache/tiny/clips.parquet"), "clips", listed)
    parquet.write_table(Path("cache/tiny/audio/part-00000-of-00001.parquet"), "audio", audio, made_by)
    parquet.write_table(Path("cache/tiny/waveforms/part-00000-of-00001.parquet"), "waveforms", waveforms)


def flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.int16), 8000, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def ramp(n_samples: int) -> np.ndarray:
    return np.arange(1, n_samples + 1, dtype=np.int16)


def rows() -> list[dict[str, object]]:
    found: list[dict[str, object]] = parquet.read_table(Path("cache/tiny/tags"), "tags").to_pylist()
    return found


@pytest.mark.parametrize(
    ("n_samples", "expected"),  # windows of 200 samples, 100 apart: (start, samples of sound)
    [
        (1, [(0, 1)]),
        (199, [(0, 199)]),
        (200, [(0, 200)]),
        (201, [(0, 200), (100, 101)]),
        (300, [(0, 200), (100, 200)]),
        (450, [(0, 200), (100, 200), (200, 200), (300, 150)]),
    ],
)
def test_windows_cover_a_clip_to_its_end(n_samples: int, expected: list[tuple[int, int]]) -> None:
    found = list(tag.windows_of("clip", np.split(ramp(n_samples), range(70, n_samples, 70)), window=200, hop=100))
    assert [(window.start, window.samples.size) for window in found] == expected
    assert [window.samples[0] for window in found] == [start + 1 for start, _ in expected]
    assert found[-1].samples[-1] == n_samples


def test_a_row_holds_a_windows_start_padding_and_logits(tagger: FakeTagger) -> None:
    write_audio({"long": np.full(250, 16384, np.int16), "short": np.full(50, -32768, np.int16)})
    tag.run(OPTIONS)
    found = {(row["clip_id"], row["window_start_s"]): row for row in rows()}
    assert {key: row["padded_share"] for key, row in found.items()} == {
        ("long", 0.0): 0.0,
        ("long", 1.0): 0.25,
        ("short", 0.0): 0.75,
    }
    assert found["long", 1.0]["logits"] == [0.5, 0.5, 150.0]  # 16384 is half of full scale
    assert found["short", 0.0]["logits"] == [-1.0, 1.0, 50.0]


def test_a_windows_tail_is_zeros(tagger: FakeTagger) -> None:
    write_audio({"short": ramp(50)})
    tag.run(OPTIONS)
    assert tagger.seen[0].shape == (1, 200)
    assert tagger.seen[0][0, 50:].tolist() == [0.0] * 150


def test_only_clips_with_sound_have_rows(tagger: FakeTagger) -> None:
    statuses = {"a": "ok", "b": "truncated", "c": "silent", "d": "no_track", "e": "failed"}
    write_audio({clip_id: ramp(50) for clip_id in statuses}, statuses=statuses)
    counts = tag.run(OPTIONS)
    assert {row["clip_id"] for row in rows()} == {"a", "b"}
    assert counts == {"n_clips": 5, "n_with_sound": 2, "n_made": 2, "n_kept": 0, "n_dropped": 0}


def test_a_data_set_without_sound_gives_an_empty_table(tagger: FakeTagger) -> None:
    write_audio({"a": ramp(1)}, statuses={"a": "silent"})
    assert tag.run(OPTIONS)["n_with_sound"] == 0
    assert rows() == []


def test_the_batch_size_changes_nothing_but_the_batches(tagger: FakeTagger) -> None:
    write_audio({f"clip{i}": ramp(50 * i + 1) for i in range(9)})
    tables = []
    for batch_size in (1, 4, 100):
        tag.run(replace(OPTIONS, batch_size=batch_size, hop_s=1.0 + batch_size * 1e-9))  # another key, the same windows
        tables.append([{name: value for name, value in row.items() if name != "cache_key"} for row in rows()])
        assert max(len(batch) for batch in tagger.seen) <= batch_size
    assert tables[0] == tables[1] == tables[2]


def test_a_second_run_tags_nothing_and_a_new_clip_only_itself(tagger: FakeTagger) -> None:
    write_audio({"a": ramp(50), "b": ramp(60)})
    tag.run(OPTIONS)
    assert tag.run(OPTIONS)["n_made"] == 0
    write_audio({"a": ramp(50), "b": ramp(60), "c": ramp(70)})
    counts = tag.run(OPTIONS)
    assert (counts["n_kept"], counts["n_made"], counts["n_dropped"]) == (2, 1, 0)
    write_audio({"b": ramp(61), "c": ramp(70)})
    counts = tag.run(OPTIONS)
    assert (counts["n_kept"], counts["n_made"], counts["n_dropped"]) == (1, 1, 1)


@pytest.mark.parametrize("change", ["checkpoint", "window", "batch"])
def test_a_new_checkpoint_or_window_tags_everything_again_and_a_batch_size_nothing(
    tagger: FakeTagger, change: str
) -> None:
    write_audio({"a": ramp(50), "b": ramp(60)})
    tag.run(OPTIONS)
    options = OPTIONS
    if change == "checkpoint":
        tagger.checkpoint_sha256 = "1" * 64
    else:
        options = replace(OPTIONS, window_s=3.0) if change == "window" else replace(OPTIONS, batch_size=1)
    assert tag.run(options)["n_made"] == (0 if change == "batch" else 2)


def test_a_shards_metadata_say_what_made_it(tagger: FakeTagger) -> None:
    write_audio({"a": ramp(50)})
    tag.run(OPTIONS)
    stated = parquet.provenance(next(Path("cache/tiny/tags").iterdir()))
    assert stated["tagger"] == "fake"
    assert stated["checkpoint_sha256"] == "0" * 64
    assert stated["code_version"] == f"{tag.VERSION}.7"


def test_sound_at_another_rate_asks_for_decode(tagger: FakeTagger) -> None:
    write_audio({"a": ramp(50)}, sample_rate=8000)
    with pytest.raises(CacheError, match="holds sound at 8000 Hz, but fake hears at 100 Hz: run `dvc repro decode`"):
        tag.run(OPTIONS)


def test_no_sound_yet_asks_for_decode(tagger: FakeTagger) -> None:
    with pytest.raises(CacheError, match="cache/tiny/audio is missing: run `dvc repro decode` first"):
        tag.run(OPTIONS)


@pytest.mark.parametrize(
    "wrong", [replace(OPTIONS, hop_s=3.0), replace(OPTIONS, hop_s=0.0), replace(OPTIONS, batch_size=0)]
)
def test_windows_with_gaps_between_them_are_refused(tagger: FakeTagger, wrong: tag.Options) -> None:
    with pytest.raises(TaggerError, match="0 < hop_s <= window_s and batch_size >= 1"):
        tag.run(wrong)


def test_logits_that_are_no_numbers_stop_the_stage(tagger: FakeTagger, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio({"a": ramp(50)})
    monkeypatch.setattr(
        tagger, "logits", lambda waveforms, n_samples: np.full((len(waveforms), 3), math.nan, np.float32)
    )
    with pytest.raises(TaggerError, match=r"fake gave logits that are not finite for one of \['a'\]"):
        tag.run(OPTIONS)


def test_the_command_hears_noise_as_noise_and_a_step_of_int16_as_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real YAMNet through the real command: white noise is `White noise`, a hum of one step of int16 is
    `Silence`.
    """
    monkeypatch.chdir(make_project(tmp_path))
    generator = np.random.default_rng(0)
    write_audio(
        {"noise": generator.normal(0, 3000, 48000), "quiet": generator.integers(0, 2, 48000)}, sample_rate=16000
    )
    flags = [
        "--dataset",
        "tiny",
        "--tagger",
        "yamnet",
        "--checkpoint",
        "",
        "--window_s",
        "10.0",
        "--hop_s",
        "5.0",
        "--batch_size",
        "8",
    ]
    command.main(tag.Options, tag.run, prog="pipeline.tag", args=[*flags, "--device", "cpu"])
    assert json.loads(capsys.readouterr().out) == {
        "n_clips": 2,
        "n_with_sound": 2,
        "n_made": 2,
        "n_kept": 0,
        "n_dropped": 0,
    }
    labels = taggers.read_labels(Path("data/labels/yamnet.csv"))
    heard = {row["clip_id"]: labels[int(np.argmax(np.array(row["logits"])))] for row in rows()}
    assert heard == {"noise": "White noise", "quiet": "Silence"}


@pytest.mark.slow
def test_sound_that_was_not_kept_gives_the_same_logits_as_sound_that_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_project(tmp_path))
    for i, seconds in enumerate((1, 12, 35)):  # the last is two blocks
        source = f"anoisesrc=duration={seconds}:amplitude=0.3:seed={i}:sample_rate=44100"
        encode(Path(f"data/videos/tiny/{i}.m4a"), "-f", "lavfi", "-i", source, "-c:a", "aac")
    encode(Path("data/videos/tiny/silent.flac"), "-f", "lavfi", "-i", "anullsrc=duration=1")
    write_clips("tiny", ["0.m4a", "1.m4a", "2.m4a", "silent.flac"])
    found = []
    for keep_audio in (True, False):
        decode.run(decode.Options("tiny", "yamnet", keep_audio=keep_audio))
        counts = tag.run(tag.Options("tiny", "yamnet"))
        assert counts["n_with_sound"] == counts["n_made"] == 3
        found.append([{name: value for name, value in row.items() if name != "cache_key"} for row in rows()])
    assert len(list(Path("cache/tiny/waveforms").iterdir())) == 1
    assert parquet.read_table(Path("cache/tiny/waveforms"), "waveforms").num_rows == 0
    assert found[0] == found[1]
    encode(Path("data/videos/tiny/1.m4a"), "-f", "lavfi", "-i", "sine=duration=3", "-c:a", "aac")
    write_clips("tiny", ["0.m4a", "1.m4a", "2.m4a", "silent.flac"])
    with pytest.raises(
        CacheError, match=r"audio was made of other files than clips.parquet lists: 1 clips differ \(1..."
    ):
        tag.run(tag.Options("tiny", "yamnet"))


@pytest.mark.parametrize("table", ["blocks", "keys"])
def test_blocks_that_audio_does_not_promise_ask_for_decode(tagger: FakeTagger, table: str) -> None:
    write_audio({"a": ramp(250)})
    file = next(Path("cache/tiny/waveforms").iterdir())
    stored = parquet.read_table(file, "waveforms").to_pylist()
    broken = stored[:-1] if table == "blocks" else [row | {"cache_key": "of yesterday"} for row in stored]
    parquet.write_table(file, "waveforms", broken)
    with pytest.raises(CacheError, match="run `dvc repro decode`"):
        tag.run(OPTIONS)


KILLED = """
import sys, time
from pipeline import tag, taggers
from pipeline.workers import shards
from tests.pipeline.taggers.test_tag import FakeTagger, OPTIONS

class SlowTagger(FakeTagger):
    def logits(self, waveforms, n_samples):
        time.sleep(0.05)
        return super().logits(waveforms, n_samples)

shards.CLIPS_PER_SHARD = 4
taggers.build = lambda *_: SlowTagger()
tag.run(OPTIONS)
"""


@pytest.mark.slow
def test_a_tag_stage_killed_with_signal_9_goes_on_and_ends_with_the_same_bytes(
    tagger: FakeTagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio({f"clip{i:02d}": ramp(50 + i) for i in range(60)})
    for table in ("audio", "waveforms"):  # as decode shards them at four clips a shard
        split_shard(Path("cache/tiny") / table, table)
    with subprocess.Popen([sys.executable, "-c", KILLED], env=os.environ | {"PYTHONPATH": str(ROOT)}) as stage_process:
        wait_for_files(Path("cache/tiny/tags"), 3, stage_process)
        stage_process.kill()
    finished = {p.name: p.read_bytes() for p in Path("cache/tiny/tags").glob("part-*")}
    assert 3 <= len(finished) < 16
    monkeypatch.setattr(shards, "CLIPS_PER_SHARD", 4)
    counts = tag.run(OPTIONS)
    assert counts["n_kept"] > 0
    assert counts["n_made"] > 0
    resumed = {p.name: p.read_bytes() for p in Path("cache/tiny/tags").glob("part-*")}
    assert {name: resumed[name] for name in finished} == finished
    shutil.rmtree("cache/tiny/tags")
    tag.run(OPTIONS)
    assert {p.name: p.read_bytes() for p in Path("cache/tiny/tags").iterdir()} == resumed


def split_shard(folder: Path, table: str) -> None:
    rows, file = parquet.read_table(folder, table).to_pylist(), next(folder.iterdir())
    made_by = parquet.provenance(file)
    file.unlink()
    for name in {shards.shard_name(row["clip_id"], 16) for row in rows}:
        here = [row for row in rows if shards.shard_name(row["clip_id"], 16) == name]
        parquet.write_table(folder / name, table, here, made_by)


def wait_for_files(folder: Path, n_files: int, process: "subprocess.Popen[bytes]", limit_s: float = 60.0) -> None:
    """Return when `folder` holds so many finished shards and the process still runs."""
    end = time.monotonic() + limit_s
    while len(list(folder.glob("part-*"))) < n_files:
        assert process.poll() is None, "the stage ended before it was killed"
        assert time.monotonic() < end, f"no {n_files} shards in {limit_s} s"
        time.sleep(0.01)
