"""The pages "bring your own data set" and "bring your own backbone", done as they say, in a copy of the project, on
tiny clips made here.

A page's files (`path`: and a block) are written, its YAML goes into params.yaml, its commands are run; `dvc repro`
becomes the commands of dvc.yaml in its order, from the first on that has changed, which spares starting Python for
each.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.places import ROOT, copy_project
from tests.sounds import encode

pytestmark = pytest.mark.slow  # minutes
DATA = (ROOT / "pipeline/datasets/README.md").read_text(encoding="utf-8")
BACKBONES = (ROOT / "adapt/backbones/README.md").read_text(encoding="utf-8")
# Runs commands as modules of the copy, one after the other, and says on the last line what each printed.
RUN = """
import contextlib, io, itertools, json, pathlib, runpy, shlex, sys
def planned():
    import networkx
    from dvc.repo import Repo
    stages = [s.cmd for s in networkx.dfs_postorder_nodes(Repo().index.graph) if getattr(s, "cmd", None)]
    last = pathlib.Path("last.json")
    done = json.loads(last.read_text()) if last.exists() else []
    last.write_text(json.dumps(stages))
    unchanged = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(stages, done))))
    return stages[unchanged:]
said = []
for command in json.loads(sys.argv[1]):
    for line in planned() if command == "dvc repro" else [command]:
        words = shlex.split(line)
        assert words[:2] == ["python", "-m"], line
        sys.argv, out = words[2:], io.StringIO()
        with contextlib.redirect_stdout(out):
            module = words[2] + (".__main__" if words[2] == "adapt" else "")
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        said.append([line, out.getvalue()])
print(json.dumps(said))
"""


def section(page: str, title: str) -> str:
    """The text below the heading that begins with `title`, up to the next one."""
    match = re.search(rf"^## {re.escape(title)}.*?\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert match, title
    return match.group(1)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def write_files(root: Path, text: str) -> list[Path]:
    """Write every file that the text shows below its path."""
    shown = re.findall(r"^`([^`\n]+)`:\n\n```\w+\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    for name, content in shown:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return [root / name for name, _ in shown]


def change_params(root: Path, text: str) -> None:
    """Put the lines of the text's YAML into params.yaml; each must be there already."""
    path = root / "params.yaml"
    params: dict[str, Any] = yaml.safe_load(path.read_text())
    for block in blocks(text, "yaml"):
        for name, value in yaml.safe_load(block).items():
            assert name in params
            if isinstance(value, dict):
                assert value.keys() <= params[name].keys()
                params[name] |= value
            else:
                params[name] = value
    path.write_text(yaml.safe_dump(params, sort_keys=False))


def run(root: Path, *commands: str) -> dict[str, str]:
    """Run `commands` in one process; command that ran -> what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUN, json.dumps(commands)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1])) | {"log": done.stderr}


def commands_of(text: str) -> list[str]:
    return [line for block in blocks(text, "bash") for line in block.splitlines()]


def film(path: Path, bright: bool, pitch: int = 440) -> None:
    """One second of a flat colour with a tone."""
    source = [
        "-f",
        "lavfi",
        "-t",
        "1",
        "-i",
        f"color={'white' if bright else '0x202020'}:size=96x96:rate=8",
        "-f",
        "lavfi",
        "-t",
        "1",
        "-i",
    ]
    encode(
        path, *source, f"sine={pitch}", "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac"
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the first way of the data page has been gone."""
    root = tmp_path_factory.mktemp("copy")
    copy_project(root)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    text = section(DATA, "1. Folders")
    layout = blocks(text, "text")[0].split()
    for name in layout:
        film(root / name, bright="rain" in name)
    change_params(root, text)
    said = run(root, *commands_of(text))
    (root / "said.json").write_text(json.dumps(said))
    return root


def test_videos_in_folders_go_from_files_to_the_table_of_results(project: Path) -> None:
    said = json.loads((project / "said.json").read_text())
    scanned = next(json.loads(out) for command, out in said.items() if command.startswith("python -m pipeline.scan"))
    assert (scanned["n_clips"], scanned["n_labels"], scanned["n_train"], scanned["n_val"], scanned["n_test"]) == (
        8,
        2,
        4,
        2,
        2,
    )
    assert "test/dog/four" in said[commands_of(section(DATA, "1. Folders"))[1]]
    table = (project / "cache/metrics/mine/report.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][:3] == [
        "method",
        "source",
        "source + trusted",
    ]


def test_lists_name_videos_in_any_folders(project: Path) -> None:
    text = section(DATA, "2. Lists")
    files = write_files(project, text)
    lists, (table,) = [[p for p in files if p.parent.name == name] for name in ("listed", "tabular")]
    for line in [line for path in lists for line in path.read_text().splitlines()]:
        film(project / "data/videos/listed" / line.rsplit(maxsplit=2)[0], bright="rain" in line)
    for line in table.read_text().splitlines()[1:]:
        film(table.parent / line.split(",")[0], bright="rain" in line)
    said = run(project, *commands_of(text))
    counts, others = (json.loads(said[command]) for command in commands_of(text))
    assert (counts["n_clips"], counts["n_missing"], counts["n_train"], counts["n_test"]) == (3, 0, 2, 1)
    assert (others["n_clips"], others["n_missing"], others["n_test"]) == (2, 0, 2)
    assert [(project / f"cache/{name}/labels.txt").read_text() for name in ("listed", "tabular")] == ["dog\nrain\n"] * 2


def test_a_recipe_of_ones_own_reads_ones_own_table_and_says_what_is_missing(project: Path) -> None:
    text = section(DATA, "3. A recipe of your own")
    table = next(path for path in write_files(project, text) if path.suffix == ".csv")
    for line in table.read_text().splitlines()[1:]:
        if "lost" not in line:
            film(table.parent / line.split(",")[0], bright="rain" in line)
    (command,) = commands_of(text)
    said = run(project, command)
    counts = json.loads(said[command])
    assert (counts["n_clips"], counts["n_missing"], counts["n_train"], counts["n_val"], counts["n_test"]) == (
        3,
        1,
        1,
        1,
        1,
    )
    promised = re.search(r"`(tabled: .*?)`", text)
    assert promised and promised.group(1) in said["log"]


def adapting(said: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Module, or method of `adapt`, -> its counts."""
    found = {
        command: json.loads(out.splitlines()[-1])
        for command, out in said.items()
        if command.startswith("python -m adapt")
    }
    methods = {command: re.search(r"--method '?([\w+]+)", command) for command in found}
    return {
        match.group(1) if (match := methods[command]) else command.split()[2]: counts
        for command, counts in found.items()
    }


def test_a_backbone_of_ones_own_is_trained_adapted_and_used_as_published(project: Path) -> None:
    text = section(BACKBONES, "Bring your own backbone")
    write_files(project, text)
    change_params(project, text)
    counts = adapting(run(project, *commands_of(text)))
    assert counts["adapt.train"]["checkpoint"] == "cache/mine/model/small.pt"
    assert counts["adapt.statistics"]["n_layers"] == 1
    assert {name: counts[name]["n_failed"] for name in ("source", "vitta", "audio")} == {
        "source": 0,
        "vitta": 0,
        "audio": 0,
    }

    text = section(BACKBONES, "Use a published checkpoint")
    import torch

    state = torch.load(project / "cache/mine/model/small.pt", weights_only=True)["state"]
    assert state["head.weight"].shape == (2, 8)  # the page's first variant
    (project / "checkpoints").mkdir()
    torch.save(state, project / "checkpoints/small.pth")
    change_params(project, text)
    said = run(project, *commands_of(text))
    published = adapting(said)
    assert "checkpoints/small.pth as published: validation accuracy" in said["log"]
    assert published["adapt.train"]["val_accuracy"] == counts["adapt.train"]["val_accuracy"]
    assert published["source"]["top1"] == counts["source"]["top1"]


@pytest.mark.parametrize(("backbone", "variant"), [
    ("clip", "tiny"), ("frames", "test_vit"), ("mvit", "tiny"), ("r2plus1d", "tiny"), ("swin3d", "tiny"), ("tanet",
    "narrow"), ("videomae", "tiny"),
])  # fmt: skip
def test_params_alone_take_any_backbone_through_to_the_table(project: Path, backbone: str, variant: str) -> None:
    change_params(project, f"""```yaml
model: {{backbone: {backbone}, variant: {variant}}}
video: {{frames: 4, views: 2, resize: 32, size: 32}}
train: {{weights: '', scope: all, epochs: 1}}
streams: {{corruptions: [gauss, clean], severity: 5}}
report: {{methods: [vitta, audio], against: [vitta]}}
```""")  # fmt: skip
    counts = adapting(run(project, "dvc repro"))
    assert counts["adapt.train"]["checkpoint"] == f"cache/mine/model/{backbone}.pt"
    assert all((counts[name]["n_predictions"], counts[name]["n_failed"]) == (4, 0) for name in ("vitta", "audio"))
    table = (project / "cache/metrics/mine/report.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][:4] == [
        "method",
        "vitta",
        "vitta + trusted",
        "audio",
    ]
