"""One try of each kind: what happens to a stage, and what must hold then.  Every number comes from the test's dice."""

import random
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.faults.project import CACHE, DATASET, MEMO, STAGES, Project, Stage, is_of, is_temporary, read
from tests.faults.stages import Forks, Run

Try = Callable[[Project, Forks, random.Random, Path], str]
MOST_CALLS = 26  # a stage makes fewer that count, but for decode, which makes more with more threads
READERS = {  # file of the cache -> who reads it
    "lists": ("lists",), "clips.parquet": ("decode", "pseudo_label"), "labels.txt": ("map_labels", "pseudo_label"),
    MEMO: ("scan",), "audio": ("decode", "tag", "pseudo_label"), "waveforms": ("decode", "tag"),
    "tags": ("tag", "pseudo_label"), "label_map.parquet": ("pseudo_label",), "pseudo_labels.parquet": ("query",),
}  # fmt: skip
SELECT = "SELECT * FROM pseudo_labels ORDER BY clip_id"
QUERY = Run("query", (DATASET, SELECT, "--json"))
# What a name may hold that a shell, a terminal, SQL, ffmpeg or a format string would take for something else.
HOSTILE = (
    *"'\"`$;&|<>(){}[]*?!~#%\\=,:@^+ ", "\n", "\r", "\t", "\x1b[31m", "\x07", "\x7f", "\x9b", "\u202e", "\u2028",
    "\u0301", "\ufeff", "\udcff", "\udce9", "..", "-", "--help", "$(touch made)", "`touch made`", "; touch made",
    "%s%n", "{0}", "file:", "http://", "concat:", "'; DROP TABLE clips; --", "é", "日本", "😀", "a" * 40,
)  # fmt: skip


@contextmanager
def said(what: object) -> Iterator[None]:
    """Put what was tried into the message of a failure."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None


def kill(made: Project, forks: Forks, dice: random.Random, here: Path) -> str:
    """A stage is killed at a write; each file is whole, old or new; the same command ends with the same bytes."""
    stage = dice.choice([*STAGES.values()])
    at_size = dice.random() < 0.3
    run = (
        stage.run("kill_at_size", dice.randrange(_largest(made, stage)))
        if at_size
        else stage.run("kill", dice.randint(1, MOST_CALLS))
    )
    return _disturb(made, forks, stage, run, here, with_before=dice.random() < 0.5)


def full(made: Project, forks: Forks, dice: random.Random, here: Path) -> str:
    """A stage finds no room at a write: one line, exit 1, each file whole, and the same command heals."""
    stage = dice.choice([*STAGES.values()])
    at_size = dice.random() < 0.6
    run = (
        stage.run("full_at_size", dice.randrange(_largest(made, stage)))
        if at_size
        else stage.run("full", dice.randint(1, MOST_CALLS // 2))
    )
    return _disturb(made, forks, stage, run, here, with_before=dice.random() < 0.5)


def _largest(made: Project, stage: Stage) -> int:
    return max(len(data) for name, data in made.now.items() if is_of(name, stage.outputs))


def _disturb(made: Project, forks: Forks, stage: Stage, run: Run, here: Path, *, with_before: bool) -> str:
    root = made.copy(here, stage.name, with_before=with_before)
    there = read(root)
    (ended,) = forks.run(root, run)
    what = f"{run} over {'old files' if with_before else 'none'}: {ended}"
    with said(what):
        if "full" in run.fault and ended.code != 0:
            assert ended.is_one_line
        elif ended.code >= 0:  # the n-th call never came, or no file was that large
            assert ended.code == 0
        _check_whole(read(root), there, made.now)
        (again,) = forks.run(root, stage.run())
        assert again.code == 0, again
        _check_same(read(root), made.now)
    return "undisturbed" if ended.code == 0 else run.fault


def _check_whole(found: Mapping[str, bytes], before: Mapping[str, bytes], now: Mapping[str, bytes]) -> None:
    """Each file is one that was there before, or one that an undisturbed run makes; none that was there is gone, but
    for what the stage no longer makes.
    """
    for name, data in found.items():
        assert is_temporary(name) or data in (before.get(name), now.get(name)), f"{name} is neither old nor new"
    assert {name for name in before if name in now} <= found.keys()


def _check_same(found: Mapping[str, bytes], now: Mapping[str, bytes]) -> None:
    assert sorted(found) == sorted(now)
    assert [name for name in now if found[name] != now[name]] == []


def twice(made: Project, forks: Forks, dice: random.Random, here: Path) -> str:
    """Two of a stage at once, with the same or other settings: who comes second says so or waits, and what lies there
    is of one of them.
    """
    stage = dice.choice([*STAGES.values()])
    is_other = dice.random() < 0.5
    runs = [stage.run(), stage.other() if is_other else stage.run()]
    dice.shuffle(runs)
    before = dice.random() < 0.5
    alone = made.copy(here / "alone", stage.name, with_before=before)
    root = made.copy(here / "both", stage.name, with_before=before)
    with said(f"{runs[0]} and {runs[1]} at once"):
        (ended,) = forks.run(alone, stage.other())
        assert ended.code == 0, ended
        both = forks.run(root, *runs)
        for one in both:
            assert one.code == 0 or (one.is_one_line and " is being made by " in one.err), one
        assert any(one.code == 0 for one in both), both
        found = read(root)
        assert found in (made.now, read(alone)), sorted(found)
        (again,) = forks.run(root, stage.run())
        assert again.code == 0, again
        _check_same(read(root), made.now)
    return "other settings" if is_other else "same settings"


def flip(made: Project, forks: Forks, dice: random.Random, here: Path) -> str:
    """A bit of a file of the cache flips: whoever reads it says so in one line, or gives what it would have given."""
    root = made.copy(here)
    shutil.copy(made.root / CACHE / MEMO, root / CACHE / MEMO)
    files = [path for path in sorted((root / CACHE).rglob("*")) if path.is_file() and path.suffix != ".lock"]
    path = dice.choice([path for path in files if path.stat().st_size])
    name = path.relative_to(root / CACHE).as_posix()
    top = name.partition("/")[0]
    data = bytearray(path.read_bytes())
    bit = dice.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    reader = dice.choice(READERS[top])
    if (top, reader) == ("waveforms", "tag"):
        shutil.rmtree(root / CACHE / "tags")  # or there is nothing to tag
    with said(f"bit {bit} of {name} flipped, read by {reader}"):
        if reader == "query":
            (fine,) = forks.run(made.root, QUERY)
            (ended,) = forks.run(root, QUERY)
            assert ended.is_one_line or ended.out == fine.out, ended
            return "noticed" if ended.code else "harmless"
        (ended,) = forks.run(root, STAGES[reader].run())
        if ended.code:
            assert ended.is_one_line, ended
            assert ended.err.splitlines()[-1].count(top.partition(".")[0]), ended
            maker = next(stage for stage in STAGES.values() if top in stage.outputs)
            assert f"dvc repro {maker.name}" in ended.err, ended
            (made_again,) = forks.run(root, maker.run())
            assert made_again.code == 0, made_again
            (again,) = forks.run(root, STAGES[reader].run())
            assert again.code == 0, again
        found = read(root)
        if not is_of(name, STAGES[reader].outputs) and not ended.code and reader not in ("scan",):
            found[name] = made.now[name]  # it read past the damage, and its own outputs are right
        _check_same(found, made.now)
    return "noticed" if ended.code else "made again or harmless"


def names(made: Project, forks: Forks, dice: random.Random, here: Path) -> str:
    """Videos of hostile names: each is a row, no more and no less; nothing is run, and no terminal is steered."""
    root = made.copy(here, "scan")
    shutil.rmtree(root / "data/videos" / DATASET)
    wanted = set()
    for _ in range(8):
        name = "".join(dice.choices(HOSTILE, k=dice.randint(1, 5))).replace("/", "") or "x"
        folder = root / "data/videos" / DATASET / "test" / dice.choice(("dog", "cat"))
        path = folder / f"{_cut(name)}.mp4"
        folder.mkdir(parents=True, exist_ok=True)
        if path not in wanted and not path.name.startswith("."):
            shutil.copy(made.root / "data/videos" / DATASET / "test/cat/high.mp4", path)
            wanted.add(path)
    before = {path for path in root.rglob("*") if CACHE not in path.relative_to(root).parents}
    with said(sorted(ascii(path.name) for path in wanted)):
        for stage in ("scan", "decode"):
            (ended,) = forks.run(root, Run(stage, ("--dataset", DATASET, *STAGES[stage].now, *_lenient(stage))))
            assert ended.code == 0 or (stage == "scan" and ended.is_one_line and " both " in ended.err), ended
            assert not _steering(ended.out + ended.err), ended
            if ended.code:
                return "one line"
            assert f'"n_clips": {len(wanted)}' in ended.out, ended
        after = {path for path in root.rglob("*") if CACHE not in path.relative_to(root).parents}
        assert after - {root / CACHE} == before - {root / CACHE}
        assert not list(root.rglob("made"))
    return "rows"


def _steering(text: str) -> set[str]:
    """The characters by which a text could steer a terminal or forge a line, as Unicode's own tables have them."""
    turning = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    odd = {c for c in set(text) - {"\n"} if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
    return odd | {c for c in text if unicodedata.bidirectional(c) in turning}


def _lenient(stage: str) -> tuple[str, ...]:
    return ("--max_failed_share", "1") if stage == "decode" else ()


def _cut(name: str) -> str:
    """As much of a name as a file system takes."""
    while len(name.encode("utf-8", "surrogateescape")) > 200:
        name = name[:-1]
    return name


KINDS: dict[str, Try] = {"kill": kill, "full": full, "twice": twice, "flip": flip, "names": names}
