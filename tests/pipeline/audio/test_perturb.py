"""perturb: each perturbation does what its name says, by as much as was asked, and the same every time."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import CacheError, DecodeError
from adapt.tables import parquet
from adapt.tables.files import sha256_file
from pipeline import decode
from pipeline.audio import perturb, sound
from tests.places import ROOT
from tests.sounds import PICTURE, encode, make_project, sine, stored_sound, write_wav

RATE = 8000
OPTIONS = decode.Options("tiny", "yamnet", snr_db=5.0, shift_s=0.25, seed=3, music_file="music.wav")


def perturbation(
    kind: perturb.Kind, snr_db: float = 5.0, shift_s: float = 0.25, music_file: str = "", seed: int = 3
) -> perturb.Perturbation:
    return perturb.choose(kind, snr_db, shift_s, music_file, seed)


def blocks_of(*sizes: int, seed: int = 0, peak: float = 4000) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.normal(0, peak / 4, size).astype(np.int16) for size in sizes]


def applied(
    what: perturb.Perturbation, blocks: list[np.ndarray], clip_id: str = "clip", bed: "np.ndarray | None" = None
) -> list[np.ndarray]:
    changed = list(perturb.apply(what, clip_id, iter(blocks), RATE, bed))
    assert [block.size for block in changed] == [block.size for block in blocks]
    assert all(block.dtype == np.int16 for block in changed)
    return changed


def measured_snr_db(clean: "np.ndarray", mixed: "np.ndarray") -> float:
    """10 log10 of the energies, the mix's own gain found by least squares."""
    signal = clean.astype(float)
    gain = (mixed @ signal) / (signal @ signal)
    return float(10 * np.log10((gain**2 * (signal @ signal)) / np.square(mixed - gain * signal).sum()))


@pytest.mark.parametrize("snr_db", [0.0, 5.0, 20.0])
@pytest.mark.parametrize("peak", [400, 30000])  # the second goes beyond full scale at low ratios, and is turned down
def test_noise_comes_at_the_ratio_asked_for_in_each_block(snr_db: float, peak: float) -> None:
    blocks = blocks_of(60000, 60000, 50000, peak=peak)
    blocks[1] //= 4  # a quiet block gets quieter noise
    for clean, mixed in zip(blocks, applied(perturbation("noise", snr_db), blocks), strict=True):
        assert measured_snr_db(clean, mixed) == pytest.approx(snr_db, abs=0.1)
        assert np.abs(mixed.astype(int)).max() <= 32767


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_music_comes_at_the_ratio_asked_for_and_plays_on_from_block_to_block(snr_db: float) -> None:
    bed = perturb.synthesise(RATE)
    blocks = blocks_of(200000, 70000)
    played = []
    for clean, mixed in zip(blocks, applied(perturbation("music", snr_db), blocks, bed=bed), strict=True):
        music = mixed - clean.astype(float)
        assert 10 * np.log10(np.square(clean.astype(float)).sum() / np.square(music).sum()) == pytest.approx(
            snr_db, abs=0.1
        )
        played.append(music / music.std())
    likeness = np.fft.irfft(
        np.conj(np.fft.rfft(played[0][: bed.size])) * np.fft.rfft(bed)
    )  # at every place where it could begin
    start = int(np.argmax(likeness))
    both = np.concatenate(played)
    assert np.corrcoef(both, bed.take(np.arange(start, start + both.size), mode="wrap"))[0, 1] > 0.99


def test_the_bed_that_is_synthesised_is_music_that_can_be_looped() -> None:
    bed = perturb.synthesise(RATE).astype(float)
    assert bed.size == 16 * RATE
    assert np.abs(np.diff(bed, append=bed[:1])).argmax() != bed.size - 1  # no click where the end meets the beginning
    loudness = np.sqrt(np.square(bed.reshape(-1, RATE)).mean(axis=1))
    assert loudness.min() > loudness.max() / 4  # no second without music
    assert np.array_equal(bed, perturb.synthesise(RATE))


@pytest.mark.parametrize("shift_s", [0.25, -0.25, 3.0, -3.0, 0.0, 60.0, -60.0])
def test_a_shift_moves_every_sample_by_exactly_that_much_and_keeps_the_length(shift_s: float) -> None:
    blocks = blocks_of(10000, 10000, 777)
    whole = np.concatenate(blocks)
    changed = np.concatenate(applied(perturbation("shift", shift_s=shift_s), blocks))
    n = min(round(abs(shift_s) * RATE), whole.size)
    zeros = np.zeros(n, np.int16)
    expected = np.concatenate([zeros, whole[: whole.size - n]]) if shift_s >= 0 else np.concatenate([whole[n:], zeros])
    assert np.array_equal(changed, expected)


def test_a_muted_block_is_zeros_and_none_changes_nothing() -> None:
    blocks = blocks_of(100, 50)
    assert not np.concatenate(applied(perturbation("mute"), blocks)).any()
    assert all(np.array_equal(a, b) for a, b in zip(blocks, applied(perturbation("none"), blocks), strict=True))


def test_silence_stays_silence_under_noise_and_music() -> None:
    silence = [np.zeros(100, np.int16)]
    assert not applied(perturbation("noise"), silence)[0].any()
    assert not applied(perturbation("music"), silence, bed=blocks_of(64)[0])[0].any()


@pytest.mark.parametrize("kind", ["noise", "music"])
def test_what_is_random_comes_from_seed_clip_and_block_alone(kind: perturb.Kind) -> None:
    blocks = [*blocks_of(5000), *blocks_of(5000)]  # the same twice
    bed = blocks_of(4321, seed=1)[0]
    first = applied(perturbation(kind), blocks, bed=bed)
    assert all(np.array_equal(a, b) for a, b in zip(first, applied(perturbation(kind), blocks, bed=bed), strict=True))
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], applied(perturbation(kind), blocks, clip_id="other", bed=bed)[0])
    assert not np.array_equal(first[0], applied(perturbation(kind, seed=4), blocks, bed=bed)[0])


def test_importing_perturb_does_not_import_torch() -> None:
    code = "import sys, pipeline.audio.perturb; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=False).returncode == 0


def splits(n_clips: int) -> list[tuple[str, str]]:
    return [(f"clip{i}", ("train", "test")[i % 3 == 0]) for i in range(n_clips)]


def test_swap_gives_every_clip_another_one_of_its_split_and_each_exactly_once() -> None:
    clips = dict(splits(50))
    found = perturb.partners(clips.items(), seed=0)
    assert found.keys() == set(found.values()) == clips.keys()
    assert all(clip_id != partner and clips[clip_id] == clips[partner] for clip_id, partner in found.items())
    assert found == perturb.partners(reversed(clips.items()), seed=0)
    assert found != perturb.partners(clips.items(), seed=1)


def test_a_new_clip_changes_one_others_partner() -> None:
    before, after = perturb.partners(splits(50), seed=0), perturb.partners(splits(51), seed=0)
    assert sum(after[clip_id] != partner for clip_id, partner in before.items()) == 1


def test_a_split_of_one_clip_cannot_swap() -> None:
    with pytest.raises(DecodeError, match="perturb=swap needs two clips a split, but 'val' has 'lonely' only"):
        perturb.partners([*splits(9), ("lonely", "val")], seed=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "noise", "snr_db": 61.0}, r"snr_db is 61.0: give -40.0 to 60.0 dB for perturb=noise"),
        ({"kind": "music", "snr_db": float("nan")}, r"snr_db is nan: give"),
        ({"kind": "shift", "shift_s": -61.0}, r"shift_s is -61.0: give -60.0 to 60.0 seconds"),
        ({"kind": "shift", "shift_s": float("nan")}, r"shift_s is nan: give"),
        ({"kind": "music", "music_file": "nowhere.mp3"}, r"music_file 'nowhere.mp3' is not there: give a media file"),
    ],
)
def test_a_value_out_of_range_is_one_clear_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(DecodeError, match=message) as error:
        perturbation(**values)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    perturbation(**values | {"kind": "mute"})  # type: ignore[arg-type]  # which uses none of them


# From here on: the stage.


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose data set `tiny` has four tones of other pitches in one split, two of them of class 0."""
    monkeypatch.chdir(make_project(tmp_path))
    folder = tmp_path / "data/videos/tiny"
    for i, name in enumerate("abcd"):
        write_wav(folder / f"{name}.wav", sine(0.5, 16000, 300.0 + 100 * i), 16000)
    write_wav(tmp_path / "music.wav", sine(0.3, 16000, 2000.0), 16000)
    write_clips("abcd")
    return tmp_path


def write_clips(names: str) -> None:
    rows = [
        {"clip_id": name, "path": f"{name}.wav", "split": "test", "label_id": i // 2, "label": f"class {i // 2}",
        "status": "ok",
         "duration_s": 0.5, "n_frames": 4, "content_sha256": sha256_file(Path(f"data/videos/tiny/{name}.wav")),
         "error": None}
        for i, name in enumerate(names)
    ]  # fmt: skip
    parquet.write_table(Path("cache/tiny/clips.parquet"), "clips", rows)


def audio() -> dict[str, dict[str, object]]:
    return {row["clip_id"]: row for row in parquet.read_table(Path("cache/tiny/audio"), "audio").to_pylist()}


def hertz(samples: "np.ndarray") -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples, 16000))))


def test_the_clean_key_and_bytes_do_not_depend_on_what_perturbations_would_use(project: Path) -> None:
    decode.run(replace(OPTIONS, music_file=""))
    keys = {clip_id: row["cache_key"] for clip_id, row in audio().items()}
    before = {path: path.read_bytes() for path in Path("cache/tiny").rglob("part-*")}
    counts = decode.run(replace(OPTIONS, snr_db=99.0, shift_s=-99.0, music_file="nowhere", seed=9))
    assert counts["n_made"] == 0
    assert {path: path.read_bytes() for path in Path("cache/tiny").rglob("part-*")} == before
    for kind in ("noise", "shift", "swap", "mute", "music"):
        decode.run(replace(OPTIONS, perturb=kind))
        assert not {row["cache_key"] for row in audio().values()} & set(keys.values())
    decode.run(OPTIONS)
    assert {clip_id: row["cache_key"] for clip_id, row in audio().items()} == keys


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "used"),
    [
        ("noise", {"snr_db", "seed"}),
        ("shift", {"shift_s"}),
        ("swap", {"seed"}),
        ("mute", set()),
        ("music", {"snr_db", "seed"}),
    ],
)
def test_a_perturbation_is_made_again_only_for_what_it_uses(project: Path, kind: perturb.Kind, used: set[str]) -> None:
    options = replace(OPTIONS, perturb=kind)
    assert decode.run(options)["n_made"] == 4
    changes: dict[str, float] = {"snr_db": 6.0, "shift_s": 0.5, "seed": 8}
    for name, value in changes.items():
        counts = decode.run(replace(options, **{name: value}))  # type: ignore[arg-type]
        assert (counts["n_made"] > 0) == (name in used)
        decode.run(options)


def test_a_muted_clip_is_silent_and_one_without_a_track_still_has_none(project: Path) -> None:
    encode(Path("data/videos/tiny/d.wav"), *PICTURE, "-f", "mp4")
    write_clips("abcd")
    counts = decode.run(replace(OPTIONS, perturb="mute"))
    assert (counts["n_silent"], counts["n_no_track"], counts["n_ok"]) == (3, 1, 0)
    assert audio()["a"]["rms_dbfs"] is None
    assert not stored_sound("tiny")["a"].any()


def test_levels_and_status_are_those_of_the_sound_as_stored(project: Path) -> None:
    decode.run(replace(OPTIONS, perturb="shift", shift_s=0.25))
    row, samples = audio()["a"], stored_sound("tiny")["a"]
    assert row["rms_dbfs"] == pytest.approx(20 * np.log10(np.sqrt(np.square(samples / 32768).mean())))
    assert row["rms_dbfs"] == pytest.approx(20 * np.log10(0.25 / 2**0.5) - 3.01, abs=0.05)  # half of it is zeros now
    assert not samples[:4000].any()
    decode.run(replace(OPTIONS, perturb="shift", shift_s=5.0))
    assert audio()["a"]["status"] == "silent"


def test_a_swapped_clip_sounds_as_its_partner_and_follows_its_content(project: Path) -> None:
    decode.run(OPTIONS)
    clean = stored_sound("tiny")
    swapping = replace(OPTIONS, perturb="swap")
    decode.run(swapping)
    partners = perturb.partners([(name, "test") for name in "abcd"], seed=3)
    assert {name: hertz(samples) for name, samples in stored_sound("tiny").items()} == {
        n: hertz(clean[partners[n]]) for n in "abcd"
    }
    write_wav(Path("data/videos/tiny/a.wav"), sine(0.5, 16000, 1000.0), 16000)
    write_clips("abcd")
    assert decode.run(swapping)["n_made"] == 1  # the one that hears a
    (listener,) = [name for name, partner in partners.items() if partner == "a"]
    assert hertz(stored_sound("tiny")[listener]) == 1000


def test_swap_does_not_look_at_labels(project: Path) -> None:
    swapping = replace(OPTIONS, perturb="swap")
    decode.run(swapping)
    table = parquet.read_table(Path("cache/tiny/clips.parquet"), "clips").to_pylist()
    parquet.write_table(
        Path("cache/tiny/clips.parquet"), "clips", [row | {"label_id": 7, "label": "other"} for row in table]
    )
    assert decode.run(swapping)["n_made"] == 0


def test_a_music_file_counts_by_its_content_and_is_heard(project: Path) -> None:
    with_music = replace(OPTIONS, perturb="music", music_file="music.wav", snr_db=0.0)
    decode.run(with_music)
    spectrum = np.abs(np.fft.rfft(stored_sound("tiny")["a"], 16000))
    assert sorted(np.argsort([spectrum[300], spectrum[1200], spectrum[2000]])[1:]) == [0, 2]
    Path("music.wav").rename("other.wav")
    assert decode.run(replace(with_music, music_file="other.wav"))["n_made"] == 0
    write_wav(Path("other.wav"), sine(0.3, 16000, 3000.0), 16000)
    assert decode.run(replace(with_music, music_file="other.wav"))["n_made"] == 4
    write_wav(Path("other.wav"), np.zeros(100), 16000)
    with pytest.raises(DecodeError, match="music_file 'other.wav' has no sound"):
        decode.run(replace(with_music, music_file="other.wav"))


def joined(blocks: Iterator[sound.Block]) -> "np.ndarray":
    return np.concatenate(list(blocks))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "noise", "shift", "swap", "mute", "music"])
def test_sound_that_was_not_kept_is_made_again_sample_for_sample(project: Path, kind: perturb.Kind) -> None:
    decode.run(replace(OPTIONS, perturb=kind))
    kept = stored_sound("tiny")
    counts = decode.run(replace(OPTIONS, perturb=kind, keep_audio=False))
    assert counts["n_made"] == 4
    assert stored_sound("tiny") == {}
    assert {row["n_blocks"] for row in audio().values()} == {0}
    blocks = decode.reopen("tiny")
    assert kept.keys() == set("abcd")
    assert all(np.array_equal(joined(blocks(name)), kept[name]) for name in "abcd")


def test_a_clip_that_has_changed_since_is_not_made_again_in_silence(project: Path) -> None:
    decode.run(replace(OPTIONS, keep_audio=False))
    write_wav(Path("data/videos/tiny/a.wav"), sine(0.5, 16000, 1000.0), 16000)
    write_clips("abcd")
    with pytest.raises(
        CacheError, match="a would sound otherwise than when cache/tiny/audio was made: run `dvc repro decode`"
    ):
        joined(decode.reopen("tiny")("a"))
