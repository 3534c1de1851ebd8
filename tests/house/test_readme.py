"""Every command of the README does what it says: queries are run, make's verbs exist, the rest is run elsewhere and
named here.
"""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("   #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
LISTEN = next(c for c in COMMANDS if c.startswith("python -m pipeline.listen"))
TRIAL = next(c for c in COMMANDS if c.startswith("python -m adapt --dataset demo"))
QUERIES = [c for c in COMMANDS if c.startswith("python -m pipeline.query")]
RUN_ELSEWHERE = {
    "python -m adapt.backbones": "tests/adapt/backbones/test_backbones.py",
    "python -m adapt.check demo": "tests/adapt/stream/test_check.py",
    "python -m adapt.settings": "tests/adapt/stream/test_settings.py",
    "python -m pipeline.benchmark ucf101-c --videos DIR --weights FILE --preset vitta_published": (
        "tests/pipeline/benchmark/test_benchmark.py"
    ),
    "dvc add data/videos/NAME": "tests/house/test_own_videos.py",
    "git add data/videos/NAME.dvc params.yaml": "tests/house/test_own_videos.py",
    "dvc exp run --temp": "tests/house/test_own_videos.py",
    "dvc repro": "make demo runs it; tests/house/test_dvc.py checks what it would run",
    "dvc exp run -S adapt.args.max_iterations=3": "tests/house/test_dvc.py: adapt and report only",
    "dvc exp run -S decode.perturb=swap": "tests/house/test_dvc.py: decode and what follows it, not train",
    "python -m adapt.corruptions data/videos/demo/test/trumpet/trumpet_test_00.mp4 --out sheet.png": (
        "tests/adapt/video/test_corruptions_files.py"
    ),
    "python -m pipeline.map_labels ask ave --base_url http://localhost:8000/v1 --model MODEL --dry_run": (
        "tests/pipeline/llm/test_ask.py"
    ),
    "python -m pipeline.map_labels export ave --mapper llm --out ave.csv": (
        "tests/pipeline/mappers/test_mappers_table.py"
    ),
    "python -m pipeline.map_labels diff embedding ave.csv": "tests/pipeline/mappers/test_diff.py",
    "python -m pipeline.map_labels evaluate": "tests/pipeline/mappers/test_evaluate.py",
    "python -m pipeline.map_labels ask NAME --base_url http://localhost:8000/v1 --model MODEL": (
        "tests/pipeline/mappers/test_mappers.py asks a local server"
    ),
}
needs_the_demo = pytest.mark.skipif(
    not (ROOT / "cache/demo/pseudo_labels.parquet").exists(), reason="make demo has not run"
)


def run(command: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    if words[0] == "python":
        words[0] = sys.executable
    return subprocess.run(
        words, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def rows_of(command: str) -> list[dict[str, str]]:
    done = run(f"{command} --csv")
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_every_command_of_the_readme_is_covered_by_a_test() -> None:
    others = {c for c in COMMANDS if c not in [*QUERIES, LISTEN, TRIAL] and not c.startswith("make ")}
    assert others == set(RUN_ELSEWHERE)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_knows_every_verb_of_the_readme(command: str) -> None:
    done = run(f"make -n {command.split()[1]}")
    assert done.returncode == 0, done.stderr


def test_make_alone_lists_the_verbs() -> None:
    listed = run("make").stdout
    assert all(f"make {verb}" in listed for verb in ("demo", "test ", "test-slow", "check", "bench", "photosound"))


def test_what_check_leaves_out_are_files_of_tests() -> None:
    left_out = re.findall(r"--ignore-glob=\*/(\S+?\.py)", run("make -n check").stdout)
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(left_out) > 10
    assert set(left_out) - there == set()


def heard(printed: str) -> tuple[str, dict[str, float]]:
    """(the line about the file, sound -> probability)."""
    first, *bars = printed.splitlines()
    found = [re.fullmatch(r" +#* +(\d\.\d\d)  (.+)  \(from \d+ s\)", bar) for bar in bars]
    return first, {match[2]: float(match[1]) for match in found if match}


@needs_the_demo
def test_listening_prints_what_the_readme_shows() -> None:
    done = run(LISTEN)
    assert done.returncode == 0, done.stderr
    shown = re.search(rf"```\n({re.escape(LISTEN.split()[3])}: .*?)```", README, re.DOTALL)
    assert shown
    (said, sounds), (expected, expected_sounds) = heard(done.stdout), heard(shown[1])
    assert said == expected
    assert sounds == pytest.approx(expected_sounds, abs=0.02)  # processors differ in the last digit
    assert len(sounds) == len(done.stdout.splitlines()) - 1 == int(LISTEN.split()[-1])


@needs_the_demo
@pytest.mark.parametrize("command", QUERIES)
def test_every_query_of_the_readme_runs(command: str) -> None:
    done = run(command)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def demo_beside(tmp_path: Path) -> Path:
    """A folder in which a run may adapt on the demo while other tests read the results of the demo itself."""
    (tmp_path / "cache/demo").mkdir(parents=True)
    (tmp_path / "data").symlink_to(ROOT / "data")
    for path in [ROOT / "cache/schema.sql", *(ROOT / "cache/demo").iterdir()]:
        if path.name != "adapt":
            (tmp_path / path.relative_to(ROOT)).symlink_to(path)
    return tmp_path


@needs_the_demo
@pytest.mark.slow
def test_the_trial_with_a_profile_prints_where_the_time_of_20_clips_went(demo_beside: Path) -> None:
    done = run(TRIAL, demo_beside)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n_predictions"] == 20
    assert "forward" in done.stderr and "backward" in done.stderr


@needs_the_demo
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_demo_leaves_no_changed_file_behind() -> None:
    assert run("git status --porcelain cache data/videos .dvc").stdout == ""
    assert (
        "git update-index --skip-worktree dvc.lock" in run("make -n demo").stdout
    )  # a later dvc exp run takes the mark away


@needs_the_demo
def test_the_first_query_hears_a_trumpet_in_a_trumpet_clip() -> None:
    assert rows_of(QUERIES[0])[0]["sound"] == "Trumpet"


@needs_the_demo
def test_the_third_query_finds_the_two_classes_without_a_telling_sound() -> None:
    assert [row["label"] for row in rows_of(QUERIES[2])] == ["chess", "yoga"]


@needs_the_demo
@pytest.mark.skipif(not (ROOT / "cache/metrics/demo/report.json").exists(), reason="make demo has not run")
def test_the_demo_meets_its_promises() -> None:
    """The demo's own targets: learned but not trivial, hurt by corruption, and sound helps where there is sound and
    costs nothing where not.
    """
    scores = json.loads((ROOT / "cache/metrics/demo/report.json").read_text(encoding="utf-8"))
    assert 10 < scores["source"]["all"] < 65  # above chance, and well below what it has of clean clips
    difference = scores["audio"]["against"]["vitta"]
    assert difference["sounding"] >= 10 and difference["sounding_low"] > 0
    assert difference["silent_high"] >= 0  # no loss beyond what another draw of clips may show
