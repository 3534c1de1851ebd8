"""The demo set: clips that are the same bytes each time, unlike each other, and heard by a real tagger."""

import subprocess
import sys
from pathlib import Path

import decord
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from adapt.errors import DatasetError
from adapt.tables.files import sha256_file
from pipeline import taggers
from pipeline.audio.soundfont import Note, SoundFont, load_soundfont
from pipeline.datasets import demo
from pipeline.demo import scenes, sounds
from tests.places import ROOT

FLUTE, GLOCKENSPIEL = 73, 9
# Which of AudioSet's sounds are a class's own, for the check by ear.
SOUNDS = {
    "drum_kit": ["Drum kit", "Drum", "Snare drum", "Cymbal", "Hi-hat", "Bass drum"],
    "flute": ["Flute", "Wind instrument, woodwind instrument"],
    "glockenspiel": ["Glockenspiel"],
    "organ": ["Organ", "Hammond organ", "Electronic organ"],
    "saxophone": ["Saxophone"],
    "steelpan": ["Steelpan"],
    "timpani": ["Timpani"],
    "trumpet": ["Trumpet", "Brass instrument"],
}


@pytest.fixture(scope="module")
def font() -> SoundFont:
    return load_soundfont()


def loudest_hz(waveform: np.ndarray, sample_rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(np.fft.rfftfreq(len(waveform), 1 / sample_rate)[spectrum.argmax()])


@pytest.mark.parametrize("key", [69, 76, 81])
def test_a_note_has_the_pitch_of_equal_temperament(font: SoundFont, key: int) -> None:
    waveform = font.render([Note(0.0, 0.9, key, 100)], program=FLUTE, sample_rate=32000, duration_s=1.0)
    assert loudest_hz(waveform, 32000) == pytest.approx(440 * 2 ** ((key - 69) / 12), rel=0.012)  # within 20 cents


def test_velocity_changes_a_note_by_the_specifications_40_log10(font: SoundFont) -> None:
    loud, soft = (
        font.render([Note(0.0, 0.5, 84, velocity)], program=FLUTE, sample_rate=16000, duration_s=1.0)
        for velocity in (127, 64)
    )
    assert 20 * np.log10(np.abs(loud).max() / np.abs(soft).max()) == pytest.approx(40 * np.log10(127 / 64), abs=0.01)


def test_a_note_starts_when_it_is_played_and_fades_after_it_is_let_go(font: SoundFont) -> None:
    waveform = font.render([Note(0.5, 0.5, 72, 100)], program=FLUTE, sample_rate=16000, duration_s=3.0)
    before, held, after = (
        np.abs(waveform[:8000]).max(),
        np.abs(waveform[8000:16000]).max(),
        np.abs(waveform[40000:]).max(),
    )
    assert before == 0 and held > 0.02 and after < 0.001 * held


def test_a_file_that_is_no_soundfont_and_a_preset_that_is_not_there_are_said(font: SoundFont, tmp_path: Path) -> None:
    (tmp_path / "notes.sf2").write_bytes(b"RIFF\x04\0\0\0WAVE")
    with pytest.raises(DatasetError, match="not a SoundFont 2 file"):
        SoundFont(tmp_path / "notes.sf2")
    with pytest.raises(DatasetError, match="no preset for bank 3, program 0"):
        font.render([Note(0, 1, 60, 100)], bank=3, sample_rate=16000, duration_s=1.0)


def test_a_clip_is_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    demo.render_clip(demo.Clip("drum_kit", "test", 3), tmp_path / "here.mp4")
    code = (
        "from pathlib import Path; from pipeline.datasets import demo; demo.render_clip(demo.Clip('drum_kit', "
        "'test', 3), Path('there.mp4'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0
    assert sha256_file(tmp_path / "here.mp4") == sha256_file(tmp_path / "there.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.mp4", "there.mp4"]


def test_another_seed_or_number_gives_another_clip() -> None:
    clips = [(demo.Clip("organ", "test", 0), 0), (demo.Clip("organ", "test", 1), 0), (demo.Clip("organ", "test", 0), 1)]
    waveforms = [demo.sound(clip, seed) for clip, seed in clips]
    pictures = [scenes.frames(clip.label, clip.generator(seed).spawn(2)[0]) for clip, seed in clips]
    for other in (1, 2):
        first, second = waveforms[0], waveforms[other]
        assert first is not None and second is not None and not np.allclose(first, second)
        assert np.abs(pictures[0].astype(int) - pictures[other]).mean() > 5  # of 255


def test_a_clip_is_three_seconds_of_h264_and_aac_at_16_frames_a_second(tmp_path: Path) -> None:
    demo.render_clip(demo.Clip("flute", "val", 0), tmp_path / "clip.mp4")
    reader = decord.VideoReader(str(tmp_path / "clip.mp4"), num_threads=1)
    assert (len(reader), reader.get_avg_fps(), reader[0].shape) == (48, 16.0, (128, 128, 3))
    said = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(tmp_path / "clip.mp4")], capture_output=True, text=True, check=False
    ).stderr
    assert "Video: h264" in said and "Audio: aac" in said and "Duration: 00:00:03" in said


def test_the_set_has_270_clips_of_the_ten_listed_classes() -> None:
    listed = (ROOT / "data/labels/demo.txt").read_text(encoding="utf-8").split()
    clips = demo.all_clips()
    assert list(demo.LABELS) == listed
    assert len({clip.path for clip in clips}) == len(clips) == 10 * (12 + 3 + 12)
    assert demo.Clip("yoga", "test", 7).path == Path("test/yoga/yoga_test_07.mp4")


def test_chess_and_yoga_have_no_track_silence_or_the_sea_in_equal_parts() -> None:
    for label, split in (("chess", "test"), ("yoga", "val")):
        heard = [demo.sound(demo.Clip(label, split, number)) for number in range(demo.CLIPS_PER_CLASS[split])]
        n_none, n_silent = sum(w is None for w in heard), sum(w is not None and not w.any() for w in heard)
        assert n_none == n_silent == len(heard) / 3


@pytest.mark.parametrize("label", demo.LABELS)
def test_every_scene_moves(label: str) -> None:
    frames = scenes.frames(label, demo.Clip(label, "train", 0).generator(0))
    assert frames.shape == (48, 128, 128, 3) and frames.dtype == np.uint8
    changed = np.abs(frames[1:].astype(int) - frames[:-1]).mean((1, 2, 3))
    assert (changed > 0.1).all() and frames.std() > 15


def test_yamnet_knows_at_least_85_percent_of_sixteen_instrument_clips() -> None:
    tagger = taggers.build("yamnet")
    clips = [demo.Clip(label, "test", number) for label in SOUNDS for number in (0, 7)]
    heard = np.stack([wave for clip in clips if (wave := demo.sound(clip)) is not None])
    waveforms = resample(torch.from_numpy(heard), sounds.SAMPLE_RATE, tagger.sample_rate).numpy()
    logits = tagger.logits(waveforms, np.full(len(clips), waveforms.shape[1])).astype(float)
    columns = {label: [tagger.labels.index(sound) for sound in own] for label, own in SOUNDS.items()}
    score = np.stack([(1 / (1 + np.exp(-np.clip(logits[:, own], -60, 60)))).sum(1) for own in columns.values()], 1)
    right = [list(SOUNDS)[best] == clip.label for best, clip in zip(score.argmax(1), clips, strict=True)]
    assert np.mean(right) >= 0.85


def test_rendering_puts_the_whole_set_in_place_or_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    few = [demo.Clip("chess", "train", 0), demo.Clip("yoga", "test", 1)]
    monkeypatch.setattr(demo, "all_clips", lambda: few)
    assert demo.render(demo.Options(out, jobs=1)) == {"n_clips": 2, "n_train": 1, "n_val": 0, "n_test": 1}
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert written == ["demo/test/yoga/yoga_test_01.mp4", "demo/train/chess/chess_train_00.mp4"]
    monkeypatch.setattr(demo, "all_clips", lambda: [*few, demo.Clip("bassoon", "test", 0)])
    with pytest.raises(KeyError):
        demo.render(demo.Options(out, jobs=1))
    assert written == sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    with pytest.raises(DatasetError, match="--jobs must be at least 1, got 0"):
        demo.render(demo.Options(out, jobs=0))
