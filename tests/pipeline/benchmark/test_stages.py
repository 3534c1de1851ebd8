"""What a benchmark's run finds in the folder of videos, how it lays that out, and what a stage that fails leads to."""

from pathlib import Path

import pytest

from adapt import presets
from adapt.errors import DatasetError, OptionsError, StageError
from pipeline.benchmark import _stages
from pipeline.benchmark.__main__ import Options, _check, _methods
from tests.places import ROOT


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders that ViTTA's authors ship, empty but for lists, beside a project."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "my ucf"
    (root / "level_5_ucf_val_split_1_/gauss").mkdir(parents=True)
    (root / "list_video_perturbations_ucf").mkdir()
    for name in ("gauss_shuffled", "gauss", "motion"):
        (root / f"list_video_perturbations_ucf/{name}.txt").write_text("")
    return root


def test_the_videos_stay_where_they_are_and_the_data_sets_folder_links_to_them(shipped: Path) -> None:
    (shipped / ".hidden").mkdir()
    originals = shipped.parent / "UCF"
    originals.mkdir()
    for _ in range(2):  # a second time nothing is left to do
        folder = _stages.lay_out("ucf101_c", shipped, originals)
    assert folder == Path("data/videos/ucf101_c")
    assert {path.name: path.resolve() for path in folder.iterdir()} == {
        "level_5_ucf_val_split_1_": shipped / "level_5_ucf_val_split_1_",
        "list_video_perturbations_ucf": shipped / "list_video_perturbations_ucf",
        "UCF-101": originals,
    }


def test_videos_that_lie_in_their_place_already_need_no_links(shipped: Path) -> None:
    place = Path("data/videos/ucf101_c")
    place.parent.mkdir(parents=True)
    shipped.rename(place)
    before = sorted(place.iterdir())
    assert _stages.lay_out("ucf101_c", place, None) == place
    assert sorted(place.iterdir()) == before and not any(path.is_symlink() for path in before)


def test_a_folder_of_other_videos_under_that_name_is_left_alone(shipped: Path) -> None:
    (other := Path("data/videos/ucf101_c/list_video_perturbations_ucf")).mkdir(parents=True)
    with pytest.raises(DatasetError, match=f"{other} is there already and is not .*: move it away"):
        _stages.lay_out("ucf101_c", shipped, None)
    with pytest.raises(DatasetError, match="nowhere is no folder"):
        _stages.lay_out("ucf101_c", Path("nowhere"), None)


def test_the_order_is_that_of_the_shuffled_lists_where_each_corruption_has_one(shipped: Path) -> None:
    lists = shipped / "list_video_perturbations_ucf"
    assert _stages.order_file(shipped, ["gauss"]) == f"{lists}/{{}}_shuffled.txt"
    assert _stages.order_file(shipped, ["gauss", "motion"]) == f"{lists}/{{}}.txt"
    assert _stages.order_file(shipped, ["gauss", "rain"]) == ""
    assert _stages.ready_made(shipped) == str(shipped) and _stages.ready_made(lists) == ""


def test_the_authors_statistics_are_found_by_their_names_means_first(shipped: Path) -> None:
    assert _stages.statistics_in(shipped) == ()
    for network in ("tanet", "swin"):
        (folder := shipped / f"source_statistics_{network}_ucf").mkdir()
        for part in ("var", "mean"):
            (folder / f"list_spatiotemp_{part}_20220908.npy").write_bytes(b"")
    found = [Path(name).relative_to(shipped).as_posix() for name in _stages.statistics_in(shipped)]
    assert found == [f"source_statistics_tanet_ucf/list_spatiotemp_{part}_20220908.npy" for part in ("mean", "var")]
    (shipped / "source_statistics_tanet_ucf/list_spatiotemp_mean_2.npy").write_bytes(b"")
    with pytest.raises(DatasetError, match="would both do: name one by --statistics_files"):
        _stages.statistics_in(shipped)


def test_a_stages_counts_are_the_last_line_that_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    Path("toy.py").write_text("import json, sys\nprint('hello')\nprint(json.dumps({'words': sys.argv[1:]}))\n")
    assert _stages.stage("toy", "--name", "a b; rm *") == {"words": ["--name", "a b; rm *"]}
    Path("toy.py").write_text("import sys\nsys.exit('toy: no room')\n")
    with pytest.raises(StageError, match="python -m toy ended with 1, as it says above: the same command goes on"):
        _stages.stage("toy")
    assert "toy: no room" in capfd.readouterr().err
    Path("toy.py").write_text("")
    with pytest.raises(StageError, match="printed no counts"):
        _stages.stage("toy")


def test_the_source_model_and_the_preset_come_first_and_each_once() -> None:
    options = Options("ucf101-c", Path(), "x", methods=("audio", "source+none", "sar_published+none"))
    assert _methods(options) == ["source+none", "vitta_published+none", "audio", "sar_published+none"]


@pytest.mark.parametrize(("changes", "said"), [
    ({"weights": "nowhere.pth"}, "weights nowhere.pth is no file"),
    ({"corruptions": ("gauss", "fog")}, "corruptions name 'fog': choose among gauss, pepper"),
    ({"corruptions": ("gauss", "gauss")}, "at least one, each once"),
    ({"corruptions": ()}, "at least one, each once"),
    ({"statistics_files": ("a.npy",)}, "give two: means, variances"),
    ({"originals": Path()}, "originals are of ucf101-c, whose files have no sound: ave-c has its own"),
])  # fmt: skip
def test_options_that_do_not_go_together_are_one_line(changes: dict[str, object], said: str) -> None:
    given: dict[str, object] = {"name": "ave-c", "videos": Path(), "weights": str(ROOT / "Makefile")}
    with pytest.raises(OptionsError, match=said):
        _check(Options(**(given | changes)))  # type: ignore[arg-type]


def test_the_published_protocol_is_what_the_preset_has() -> None:
    """The frames that the stages are told are those of adapt's own preset, which this package does not import."""
    video = presets.get("vitta_published").video
    assert {name: getattr(Options, name) for name in ("frames", "resize", "size")}.items() <= video.items()
    assert video["sampling"] == _stages.SAMPLING
