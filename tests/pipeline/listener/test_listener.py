"""listener: a waveform in memory says of the classes what the stages make of a file that holds it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import adapt
import pipeline
from adapt.errors import DecodeError, MapperError, OptionsError, TaggerError
from pipeline import Listener, query
from tests.pipeline.listener.conftest import CLASSES, Made, recordings

CLIPS = [
    "mono", "stereo", "opposite", "left", "coarse", "fine", "narrow", "surround", "short", "long", "tone", "silent",
    "zeros",
]  # fmt: skip


def test_every_recording_is_compared() -> None:
    assert list(recordings()) == CLIPS


@pytest.mark.parametrize("clip", CLIPS)
def test_the_evidence_is_that_of_pseudo_labels(clip: str, made: Made, listener: Listener) -> None:
    row, found = made.rows[clip], listener(*made.read(clip))
    assert made.statuses[clip] == listener.clips[0].status
    if clip in ("silent", "zeros"):
        assert found is None and row["evidence"] == [0.0] * len(CLASSES)
        assert (listener.heard, listener.why) == ([], [])
        return
    assert isinstance(found, adapt.Sound) and found.absent is not None
    for ours, column in ((found.s, "evidence"), (found.q, "probs"), (found.absent, "absent"), (found.mass, "mass")):
        assert ours.tolist() == pytest.approx(row[column], abs=1e-4), column


def test_the_recordings_are_heard_as_what_they_are(made: Made, listener: Listener) -> None:
    """So that equal evidence is not no evidence."""
    expected = {"mono": "trumpet", "opposite": "organ", "left": "drum_kit", "coarse": "trumpet", "fine": "organ",
                "narrow": "flute", "surround": "organ", "long": "flute"}  # fmt: skip
    found = {clip: listener(*made.read(clip)) for clip in expected}
    assert all(said is not None and said.mass > 0.1 for said in found.values())
    assert {clip: CLASSES[int(said.s.argmax())] for clip, said in found.items() if said is not None} == expected


@pytest.mark.parametrize("clip", ["mono", "stereo", "surround", "tone"])
def test_the_chain_is_that_of_the_cached_tables(clip: str, project: Made, listener: Listener) -> None:
    listener(*project.read(clip))
    with query.connect("heard") as connection:
        sounds = connection.sql(f"SELECT sound, probability FROM loudest('{clip}', 10) WHERE probability >= 0.1")
        heard = sounds.fetchall()
        columns = "sound, probability, label, weight, necessary, counts, score"
        why = connection.sql(f"SELECT {columns} FROM why('{clip}')").fetchall()
    assert [(s.sound, pytest.approx(s.probability, abs=1e-4)) for s in listener.heard] == heard
    ours = [(x.sound, x.probability, x.label, x.weight, x.necessary, x.counts, x.score) for x in listener.why]
    assert [(a, c, e, f) for a, _, c, _, e, f, _ in ours] == [(a, c, e, f) for a, _, c, _, e, f, _ in why]
    for one, other in zip(ours, why, strict=True):
        assert (one[1], one[3], one[6]) == pytest.approx((other[1], other[3], other[6]), abs=1e-4)
    assert clip == "tone" or why


def test_a_network_takes_it_as_sound(made: Made, listener: Listener) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 8 * 8, len(CLASSES)))
    model = adapt.wrap(network, "source", classes=CLASSES)
    frames = torch.rand(1, 3, 4, 8, 8)
    seen = model(frames, sound=listener(*made.read("silent"))).exp()
    heard = model(frames, sound=listener(*made.read("mono"))).softmax(1)
    assert heard[0, CLASSES.index("trumpet")] > seen[0, CLASSES.index("trumpet")]


def test_tensors_and_arrays_of_any_type_say_the_same(made: Made, listener: Listener) -> None:
    samples, rate = made.read("stereo")
    expected = listener(samples, rate)
    assert expected is not None
    whole = np.rint(samples * 32768).astype(np.int16)
    for given in (torch.from_numpy(samples), whole, torch.from_numpy(whole), samples.astype(np.float64)):
        found = listener(given, rate)
        assert found is not None and torch.equal(found.s, expected.s)


def test_a_batch_is_its_clips_whatever_their_lengths(made: Made, listener: Listener) -> None:
    names = ["stereo", "silent", "left", "opposite"]
    waveforms = [made.read(name)[0] for name in names]
    alone = [listener(one, 32000) for one in waveforms]
    together = listener(waveforms, 32000)
    assert together is not None and together.absent is not None and together.s.shape == (4, len(CLASSES))
    assert [clip.status for clip in listener.clips] == ["ok", "silent", "ok", "ok"]
    for i, one in enumerate(alone):
        if one is None:
            assert (float(together.mass[i]), float(together.s[i].sum())) == (0, 0)
            assert torch.equal(together.q[i], torch.full((len(CLASSES),), 1 / len(CLASSES)))
        else:
            assert torch.allclose(together.s[i], one.s, atol=1e-5) and torch.allclose(
                together.mass[i], one.mass, atol=1e-5
            )
    with pytest.raises(OptionsError, match="listened to 4 clips: see `clips`"):
        _ = listener.heard


def test_a_batch_may_be_one_array(made: Made, listener: Listener) -> None:
    mono, rate = made.read("mono")
    rows = np.concatenate([mono, 0 * mono])  # (B, samples)
    found = listener.batch(rows, rate)
    assert found.mass[0] > 0 and found.mass[1] == 0
    of_channels = listener(torch.from_numpy(rows[:, None]), rate)  # (B, channels, samples)
    assert of_channels is not None and torch.equal(of_channels.s, found.s)


def test_a_map_may_be_a_table_of_the_cache_or_a_csv(project: Made, listener: Listener, tmp_path: Path) -> None:
    samples, rate = project.read("mono")
    expected = listener(samples, rate)
    listener.save_map(tmp_path / "map.csv")
    for path in ("cache/heard/label_map.parquet", tmp_path / "map.csv"):
        found = Listener(CLASSES, label_map=path)(samples, rate)
        assert found is not None and expected is not None and torch.allclose(found.s, expected.s, atol=1e-6), path


def test_a_necessary_sound_that_is_not_heard_is_said_to_be_absent(project: Made, tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text(
        "audio_label,label,weight,necessary,reason\nTrumpet,trumpet,1,true,it is one\nFlute,flute,1,false,x\n"
    )
    listener = Listener(CLASSES, label_map=path)
    found = listener(*project.read("mono"))
    assert found is not None and found.absent is not None
    loudest = {sound.sound: sound.probability for sound in listener.heard}
    expected = [1 - loudest["Trumpet"] if name == "trumpet" else 0.0 for name in CLASSES]
    assert found.absent.tolist() == pytest.approx(expected, abs=1e-6)
    assert [(link.sound, link.label, link.necessary) for link in listener.why] == [("Trumpet", "trumpet", True)]


def test_rules_are_those_of_pseudo_label(project: Made) -> None:
    strict = Listener(CLASSES, label_map="lexical", threshold=0.99, top_k=1)
    found = strict(*project.read("mono"))
    assert found is not None and found.mass == 0 and strict.heard == []
    deaf = Listener(CLASSES, label_map="lexical", silent_below_dbfs=-1.0)
    assert deaf(*project.read("mono")) is None


@pytest.mark.parametrize(
    ("options", "error", "line"),
    [
        ({"classes": "dog"}, MapperError, "classes='dog': give the names"),
        ({"classes": []}, MapperError, r"classes=\[\]: give the names"),
        ({"classes": ["dog", "dog"]}, MapperError, "names 'dog' more than once"),
        ({"classes": ["drum_kit", "drum kit"]}, MapperError, "of a caller read the same"),
        ({"classes": ["zzz"]}, MapperError, "lexical: no sound of yamnet points to any of .*: set label_map"),
        ({"label_map": "guess"}, MapperError, "'guess' is neither a mapper nor a file"),
        ({"tagger": "ears"}, TaggerError, "unknown tagger 'ears'"),
        ({"variant": "big"}, TaggerError, "yamnet has no variant 'big'"),
        ({"hop_s": 20.0}, TaggerError, "hop_s=20.0"),
        ({"treshold": 0.2}, OptionsError, "unknown option 'treshold': choose among"),
        ({"threshold": 2.0}, OptionsError, "threshold is 2.0: give 0 to 1"),
        ({"combine": "avg"}, OptionsError, "pseudo_label.combine is 'avg': choose one of"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    options: dict[str, object], error: type[Exception], line: str, project: Made
) -> None:
    with pytest.raises(error, match=line):
        Listener(**({"classes": ["flute"], "label_map": "lexical"} | options))  # type: ignore[arg-type]


def test_what_is_no_sound_is_an_error(listener: Listener) -> None:
    with pytest.raises(DecodeError, match="a waveform is float: pass an array"):
        listener([0.1, 0.2], 16000)  # type: ignore[list-item]
    with pytest.raises(DecodeError, match="at least one sample"):
        listener(np.zeros(0), 16000)
    with pytest.raises(DecodeError, match="the batch has no waveform"):
        listener([], 16000)


def test_a_program_that_only_wants_the_stages_does_not_load_the_listener() -> None:
    code = "import sys, pipeline, pipeline.pseudo_label; assert not {'torch', 'pipeline.listener'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'Hearer'"):
        _ = pipeline.Hearer  # type: ignore[attr-defined]
