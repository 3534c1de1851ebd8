"""A tiny data set that every light stage has run on, twice: as it is now, and as it was, with one clip more and other
settings.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults.stages import Forks, Run
from tests.places import ROOT
from tests.sounds import PICTURE, encode

DATASET = "tiny"
CACHE = Path("cache") / DATASET
SOUND = ("-f", "lavfi", "-i", "sine=frequency={}:duration=1:sample_rate=16000", "-c:a", "aac")
MEMO = "scan_memory.parquet"  # it holds inodes: no two projects have the same


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline, with the settings of now and those of before."""

    name: str
    now: tuple[str, ...]
    before: tuple[str, ...]
    outputs: tuple[str, ...]  # below the data set's folder

    def run(self, fault: str = "", n: int = 0) -> Run:
        """As it is now."""
        return Run(self.name, ("--dataset", DATASET, *self.now), fault, n)

    def other(self) -> Run:
        """As it was."""
        return Run(self.name, ("--dataset", DATASET, *self.before))


YAMNET = ("--tagger", "yamnet")
STAGES = {
    stage.name: stage
    for stage in (
        Stage("lists", (), ("--table", "data/maps/other.csv"), ("lists",)),
        Stage("scan", (), (), ("clips.parquet", "labels.txt", MEMO)),
        Stage("decode", YAMNET, (*YAMNET, "--track", "0"), ("audio", "waveforms")),
        Stage("tag", YAMNET, (*YAMNET, "--window_s", "0.5", "--hop_s", "0.5"), ("tags",)),
        Stage("map_labels", ("--mapper", "lexical"), ("--mapper", "table"), ("label_map.parquet",)),
        Stage("pseudo_label", YAMNET, (*YAMNET, "--top_k", "2"), ("pseudo_labels.parquet",)),
    )
}
MAP = "audio_label,label,weight,necessary,reason\nDog,dog,0.5,false,it is one\n"


@dataclass(frozen=True)
class Project:
    """A folder with the project as it is, the files of its cache, and those of before."""

    root: Path
    now: Mapping[str, bytes]
    before: Mapping[str, bytes]

    def copy(self, root: Path, stage: str = "", *, with_before: bool = False) -> Path:
        """The project at `root`, but for what `stage` makes, which is missing or what it was `with_before`."""
        shutil.copytree(self.root, root, symlinks=True, copy_function=_link)
        shutil.rmtree(root / CACHE)
        outputs = STAGES[stage].outputs if stage else ()
        write(root, {name: data for name, data in self.now.items() if not is_of(name, outputs)})
        if with_before:
            write(root, {name: data for name, data in self.before.items() if is_of(name, outputs)})
        return root


def is_of(name: str, outputs: tuple[str, ...]) -> bool:
    """Whether a file is one of a stage's outputs, or lies in one."""
    return name.partition("/")[0] in outputs


def write(root: Path, files: Mapping[str, bytes]) -> None:
    """Put files into the data set's folder."""
    (root / CACHE).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / CACHE / name).parent.mkdir(parents=True, exist_ok=True)
        (root / CACHE / name).write_bytes(data)


def read(root: Path) -> dict[str, bytes]:
    """Every file of the data set's folder but for locks and scan's memo; temporary files are among them."""
    files = [path for path in (root / CACHE).rglob("*") if path.is_file()]
    kept = [path for path in sorted(files) if path.suffix != ".lock" and path.name != MEMO]
    return {path.relative_to(root / CACHE).as_posix(): path.read_bytes() for path in kept}


def is_temporary(name: str) -> bool:
    """Whether a file is one that a writer has not finished."""
    return name.endswith(".tmp")


def make(base: Path, forks: Forks) -> Project:
    """Write the videos and run all stages, as it was and as it is now."""
    root = base / "project"
    (root / "cache").mkdir(parents=True)
    for name in ("schema.sql", "views.sql"):
        shutil.copy(ROOT / "cache" / name, root / "cache")
    (root / "data/labels").mkdir(parents=True)
    for path in (ROOT / "data/labels").iterdir():
        (root / "data/labels" / path.name).symlink_to(path)
    (root / "data/maps").mkdir()
    (root / "data/maps/tiny.csv").write_text(MAP)
    (root / "data/maps/other.csv").write_text(MAP)
    videos = root / "data/videos" / DATASET / "test"
    for i, name in enumerate(("dog/loud", "dog/low", "cat/high", "cat/gone")):
        sound = [word.format(220 * 3**i) for word in SOUND]
        encode(videos / f"{name}.mp4", *PICTURE[:4], *sound, *PICTURE[4:])
    encode(videos / "cat/mute.mp4", *PICTURE)
    (videos / "dog/broken.mp4").write_bytes(b"not a video")
    before = _run_all(root, forks, before=True)
    (videos / "cat/gone.mp4").unlink()
    shutil.rmtree(root / CACHE)
    return Project(root, _run_all(root, forks, before=False), before)


def _run_all(root: Path, forks: Forks, *, before: bool) -> dict[str, bytes]:
    for stage in STAGES.values():
        (ended,) = forks.run(root, stage.other() if before else stage.run())
        assert ended.code == 0, (stage.name, ended)
    return read(root)


def _link(source: str, target: str) -> str:
    Path(target).hardlink_to(source)
    return target
