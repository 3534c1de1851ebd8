"""Source statistics are those of all values at once, whatever the clips' sizes and offsets; files that do not fit are
one error.
"""

import dataclasses
import logging
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import adapt
from adapt import backbones
from adapt.contract import Moments, SourceStatistics
from adapt.core import moments
from adapt.core.batch_norm import own_statistics
from adapt.core.moments import Running, collect
from adapt.errors import AdaptError, CheckpointError, MethodError, OptionsError
from adapt.methods import tent
from adapt.source import checkpoints, statistics
from adapt.tables import cache, classes, code
from tests import built
from tests.greys import LABELS, VIDEO
from tests.tiny import trained

MODEL, FILE = checkpoints.model_path("greys", "tanet"), checkpoints.statistics_path("greys", "tanet")
OPTIONS = statistics.Options("greys", "tanet", video=VIDEO)
NORMS = ("batch", "group", "layer", "later")


class Offset(nn.Module):
    """Batch, group and layer norms whose outputs lie around `offset`, with deviations of about 1."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.batch, self.group, self.layer, self.later = (
            nn.BatchNorm3d(3),
            nn.GroupNorm(1, 3),
            nn.LayerNorm(3),
            nn.BatchNorm3d(3),
        )
        for norm in (self.batch, self.group, self.layer):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.constant_(norm.bias, offset)
        assert self.later.running_mean is not None  # so that its input has the offset as well
        nn.init.constant_(self.later.running_mean, offset)

    def forward(self, frames: Tensor) -> Tensor:
        """Any numbers; the ReLU overwrites what it is given."""
        x = self.later(F.relu(self.batch(frames), inplace=True))
        return self.layer(self.group(x).movedim(1, -1)).mean((1, 2, 3))


def clips(n: int = 5) -> list[Tensor]:
    """Clips of unequal sizes, some of more than one clip, each with a level of its own."""
    random = torch.Generator().manual_seed(1)
    return [torch.rand(1 + i % 2, 3, 2 + i, 4 + 3 * i, 5, generator=random) + i / n for i in range(n)]


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, with a checkpoint of random weights."""
    monkeypatch.chdir(project)
    torch.manual_seed(0)
    checkpoints.save_model(MODEL, backbones.build("tanet", 2, 4), "tanet", LABELS, 4, "", 32)
    FILE.unlink(missing_ok=True)
    return project


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_statistics_are_the_mean_and_variance_of_all_outputs_at_once_in_float64(offset: float) -> None:
    model = Offset(offset).eval()
    outputs: dict[str, list[Tensor]] = {name: [] for name in NORMS}
    for name in NORMS:

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            axis = -1 if name == "layer" else 1
            outputs[name].append(
                output.detach().clone().double().movedim(axis, 0).flatten(1)
            )  # before the ReLU overwrites it

        model.get_submodule(name).register_forward_hook(keep)
    found = collect(model, NORMS, clips())
    for name in NORMS:
        together = torch.cat(outputs[name], 1)
        variance, mean = torch.var_mean(together, 1, correction=0)
        rounded = offset * torch.finfo(torch.float32).eps  # kernels may round an output at the size of their input
        torch.testing.assert_close(found[name][0].double(), mean, rtol=1e-6, atol=1e-6 + rounded)
        torch.testing.assert_close(found[name][1].double(), variance, rtol=1e-4, atol=1e-6)
    if offset:  # sums and sums of squares in the network's own precision would be lost here
        values = torch.cat(outputs["group"], 1).float()
        naive = values.square().mean(1) - values.mean(1).square()
        assert (naive.double() / torch.cat(outputs["group"], 1).var(1) - 1).abs().max() > 0.5


def test_clips_count_by_their_number_of_values() -> None:
    values = torch.arange(10.0, dtype=torch.float64)
    running = Running()
    for part in (values[:2], values[2:9], values[9:]):
        running.add({"n": (part.mean()[None], part.var(correction=0)[None])}, {"n": len(part)})
    mean, variance = running.result()["n"]
    assert [mean.item(), variance.item()] == pytest.approx([4.5, 8.25])  # of 0 to 9


def test_a_layer_that_fuses_its_activation_has_the_right_statistics() -> None:
    class Fused(nn.BatchNorm3d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    model = nn.Sequential(Fused(3)).eval()
    found = collect(model, ["0"], clips(1))["0"]
    seen: Moments = {}
    handle = model[0].register_forward_hook(partial(moments.record, seen, "0"))
    model(clips(1)[0])
    handle.remove()
    torch.testing.assert_close(found, tuple(value.detach() for value in seen["0"]))


def test_clips_of_unequal_length_count_by_their_length_as_in_python() -> None:
    """`adapt.source_statistics` and the stage take the same: all values of all clips at once, by hand."""
    norm = nn.BatchNorm3d(3)
    model = nn.Sequential(norm).eval()
    given = [torch.full((1, 3, 2, 4, 4), 0.1), torch.full((1, 3, 8, 4, 4), 0.9)]
    mean, variance = collect(model, ["0"], given)["0"]
    scale = (1 + norm.eps) ** -0.5
    assert mean.tolist() == pytest.approx([(2 * 0.1 + 8 * 0.9) / 10 * scale] * 3, rel=1e-5)
    assert variance.tolist() == pytest.approx(
        [0.2 * 0.8 * 0.8**2 * scale**2] * 3, rel=1e-5
    )  # of two values, in shares of .2 and .8
    torch.testing.assert_close(adapt.source_statistics(model, given).moments["0"], (mean, variance))


def test_statistics_that_are_not_finite_are_one_error() -> None:
    model = trained()
    nn.init.constant_(model.norm.weight, float("nan"))
    with pytest.raises(CheckpointError, match="statistics of layer 'norm' are not finite: train the model again"):
        collect(model, ["norm"], [torch.rand(1, 3, 4, 8, 8)])


def test_the_stage_says_of_which_checkpoint_and_layers_its_file_is(here: Path) -> None:
    n_layers = len(moments.norm_layers(backbones.build("tanet", 2, 4)))
    assert statistics.run(OPTIONS) == {"n_clips": 8, "n_failed": 0, "n_layers": n_layers, "n_fisher": 0}
    content = checkpoints.load(FILE, "statistics")
    source = checkpoints.load_model(MODEL, "tanet", LABELS, 4)
    assert (content["model_sha256"], content["backbone"], content["variant"], content["n_clips"]) == (
        source.sha256,
        "tanet",
        "",
        8,
    )
    found = checkpoints.load_statistics(FILE, source.sha256)
    assert found.moments.keys() == set(moments.norm_layers(source.model))
    assert found.fisher == {}
    first = FILE.read_bytes()
    FILE.unlink()
    statistics.run(OPTIONS)
    assert FILE.read_bytes() == first


@pytest.mark.slow
def test_statistics_of_the_same_options_data_model_and_code_are_kept(
    here: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_kept(**changes: object) -> bool:
        caplog.clear()
        before = FILE.stat().st_mtime_ns
        with caplog.at_level(logging.INFO):
            done = statistics.run(dataclasses.replace(chosen, **changes))  # type: ignore[arg-type]
        assert done["n_layers"] == counts["n_layers"]
        kept = "is made already, of the same options, data and code: kept" in caplog.text
        assert kept == (FILE.stat().st_mtime_ns == before)
        return kept

    chosen = dataclasses.replace(OPTIONS, max_clips=2)
    counts = statistics.run(chosen)
    assert is_kept()
    assert is_kept(workers=1, video=dataclasses.replace(VIDEO, decode_timeout_s=7))  # what changes no number
    assert not is_kept(max_clips=1)
    assert is_kept(max_clips=1)
    assert not is_kept()
    checkpoints.save_model(MODEL, backbones.build("tanet", 2, 4), "tanet", LABELS, 4, "", 32)  # other weights
    assert not is_kept()
    assert is_kept()
    clips = Path("cache/greys/clips.parquet")
    table = clips.read_bytes()
    anew = {"classes_sha256": classes.sha256(LABELS), "made": "anew"}
    cache.write_table(clips, "clips", pq.read_table(clips).to_pylist(), anew)
    assert not is_kept()
    clips.write_bytes(table)
    assert not is_kept()
    with monkeypatch.context() as patch:
        patch.setattr(code, "code_sha256", lambda modules, without=(): "0" * 64)
        assert not is_kept()
    assert not is_kept()
    FILE.write_bytes(b"half a file")
    assert not is_kept()


def test_fewer_clips_are_spread_over_the_classes(here: Path) -> None:
    clips = cache.read_clips("greys", "train")
    assert [clip.label_id for clip in statistics.spread(clips, 4)] == [1, 1, 0, 0]  # clips come by name: bright, dark
    assert statistics.spread(clips, 0) == statistics.spread(clips, 99) == clips
    assert statistics.run(dataclasses.replace(OPTIONS, max_clips=2))["n_clips"] == 2
    with pytest.raises(OptionsError, match="^max_clips is -1: give 0 or more$"):
        statistics.run(dataclasses.replace(OPTIONS, max_clips=-1))


def test_fisher_weights_are_squared_gradients_that_eata_takes_up(here: Path) -> None:
    done = statistics.run(dataclasses.replace(OPTIONS, fisher=True, max_clips=1))
    source = checkpoints.load_model(MODEL, "tanet", LABELS, 4)
    found = checkpoints.load_statistics(FILE, source.sha256)
    assert (len(found.moments), len(found.fisher)) == (done["n_layers"], done["n_fisher"])
    assert found.fisher
    clip = next(iter(statistics.Frames(cache.read_clips("greys", "train")[:1], OPTIONS, torch.device("cpu"))))
    model = source.model
    with own_statistics(model, tent.Settings().bn_prior):
        logits = model(clip)
    (-logits.log_softmax(1).max()).backward()  # cross-entropy to the model's own answer
    name, (omega, value) = [*found.fisher.items()][-1]
    weight = model.get_parameter(name)
    assert weight.grad is not None
    torch.testing.assert_close(omega, weight.grad.square())
    assert torch.equal(value, weight)
    eata = built.alone("eata", model, found, 2)
    assert eata.fisher is not None and len(eata.fisher) == done["n_fisher"]  # type: ignore[attr-defined]
    with pytest.raises(MethodError, match="taken with another scope"):
        built.alone("eata", backbones.build("tanet", 2, 4), found, 2, scope="all")


@pytest.mark.parametrize(("changes", "labels", "message"), [
    ({"variant": "r50"}, LABELS, "variant is '', 'r50' is wanted"),
    ({"video": dataclasses.replace(VIDEO, frames=8)}, LABELS, "n_frames is 4, 8 is wanted"),
    ({"video": dataclasses.replace(VIDEO, size=16)}, LABELS, "size is 32, 16 is wanted"),
    ({}, LABELS[::-1], "labels_sha256 is .*class 0 is 'dark' there"),
    ({}, [*LABELS, "grey"], "labels_sha256 is .*2 classes there, 3 in labels.txt"),
    ({"backbone": "frames"}, LABELS, "frames.pt is missing: run `dvc repro train`"),
])  # fmt: skip
def test_the_stage_refuses_a_checkpoint_for_something_else(
    here: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], labels: list[str], message: str
) -> None:
    monkeypatch.setattr(cache, "read_labels", lambda dataset: labels)
    with pytest.raises(CheckpointError, match=message):
        statistics.run(dataclasses.replace(OPTIONS, **changes))  # type: ignore[arg-type]
    assert not FILE.exists()


def test_statistics_of_another_checkpoint_or_without_a_layer_are_one_error(here: Path) -> None:
    statistics.run(dataclasses.replace(OPTIONS, max_clips=1))
    source = checkpoints.load_model(MODEL, "tanet", LABELS, 4)
    found = checkpoints.load_statistics(FILE, source.sha256)
    (name, _), *rest = found.moments.items()
    with pytest.raises(MethodError, match=f"the source statistics lack layer '{name}': take them of this model"):
        built.alone("vitta", source.model, SourceStatistics(dict(rest)), 2)
    checkpoints.save_model(MODEL, backbones.build("tanet", 2, 4), "tanet", LABELS, 4, "", 32)
    other = checkpoints.load_model(MODEL, "tanet", LABELS, 4)
    with pytest.raises(CheckpointError, match="was taken of another checkpoint than .*: run `dvc repro statistics`"):
        checkpoints.load_statistics(FILE, other.sha256)


def test_statistics_of_an_older_form_are_one_error(here: Path) -> None:
    statistics.run(dataclasses.replace(OPTIONS, max_clips=1))
    content = checkpoints.load(FILE, "statistics")
    source = checkpoints.load_model(MODEL, "tanet", LABELS, 4)
    checkpoints.save(FILE, {"layers": content["moments"], "model_sha256": source.sha256})
    with pytest.raises(
        CheckpointError, match="has no moments: an older version wrote it; delete it and run `dvc repro statistics`"
    ):
        checkpoints.load_statistics(FILE, source.sha256)


def test_without_a_clip_that_can_be_read_there_is_one_error(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = cache.read_clips
    monkeypatch.setattr(
        cache,
        "read_clips",
        lambda dataset, split: [dataclasses.replace(c, path=Path("gone.mp4")) for c in read(dataset, split)],
    )
    with pytest.raises(AdaptError, match="source statistics need at least one clip"):
        statistics.run(OPTIONS)
