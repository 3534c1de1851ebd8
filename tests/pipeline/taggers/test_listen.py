"""listen: what a tagger hears in any media files, as a table or as JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import listen
from tests.places import ROOT
from tests.sounds import encode


@pytest.fixture
def noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve seconds: silence, then white noise from 6 s on."""
    monkeypatch.chdir(ROOT)
    source = ("-f", "lavfi", "-i", "anoisesrc=duration=12:amplitude=0.3:seed=1", "-af", "volume=0:enable='lt(t,6)'")
    return encode(tmp_path / "late noise.flac", *source)


def printed(args: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    with pytest.raises(SystemExit) as stopped:
        listen.main(args)
    assert stopped.value.code == code
    return capsys.readouterr().out


def test_it_hears_noise_where_there_is_noise(noise: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real YAMNet: `Silence` is loudest in a window of the first half, `White noise` in one of the second."""
    report = json.loads(printed([str(noise), "--json", "--window_s", "3", "--hop_s", "3"], capsys))
    assert (report["status"], report["duration_s"], report["n_channels"]) == ("ok", 12.0, 1)
    at_s = {sound["sound"]: sound["at_s"] for sound in report["sounds"]}
    assert at_s["Silence"] in (0.0, 3.0)
    assert at_s["White noise"] in (6.0, 9.0)
    probabilities = [sound["probability"] for sound in report["sounds"]]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_table_has_a_bar_a_sound(noise: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, *bars = printed([str(noise), "--top", "2"], capsys).splitlines()
    assert first.startswith(f"{noise}: ok, 12.0 s, 1 ch, -")
    assert len(bars) == 2
    assert all(bar.startswith("  #") for bar in bars)


def test_a_file_that_cannot_be_heard_is_a_row_and_exit_1(
    noise: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    rows = [
        json.loads(line)
        for line in printed(["--json", str(tmp_path / "text.mp4"), "no such.mp4", str(noise)], capsys, 1).splitlines()
    ]
    assert [row["status"] for row in rows] == ["failed", "failed", "ok"]
    assert all(row["error"] for row in rows[:2])
    assert rows[1]["error"] == "no such file"


def test_a_silent_file_has_no_sounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    silence = encode(tmp_path / "silence.flac", "-f", "lavfi", "-i", "anullsrc=duration=2")
    report = json.loads(printed([str(silence), "--json"], capsys))
    assert (report["status"], report["sounds"]) == ("silent", [])


def test_a_file_name_that_is_no_utf8_is_heard_and_printed(noise: Path, tmp_path: Path) -> None:
    odd = noise.rename(tmp_path / os.fsdecode(b"caf\xe9.flac"))
    for how, said in ((["--json"], b'caf\\\\xe9.flac", "status": "ok"'), ([], b"caf\\xe9.flac: ok")):
        command = [sys.executable, "-W", "ignore", "-m", "pipeline.listen", str(odd), *how]
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            check=False,
            env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"},
        )
        assert done.returncode == 0 and said in done.stdout, done


def test_a_file_name_cannot_steer_the_terminal() -> None:
    report = listen.Report("a\x1b[31m\nb.mp4", "failed", None, None, None, None, None, "torn\r", [])
    assert listen.table(report) == "a\\x1b[31m\\nb.mp4: failed, torn\\r"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "no file was named"),
        (["x.mp4", "--tagger", "pans"], "unknown tagger 'pans'"),
        (["x.mp4", "--hop_s", "0"], "hop_s is 0.0: give more than 0"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_1(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stopped:
        listen.main(args)
    assert stopped.value.code == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_reader_that_has_had_enough_ends_the_command_quietly(noise: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "pipeline.listen", *[str(noise)] * 3]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
