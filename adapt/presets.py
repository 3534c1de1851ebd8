"""The baselines as published: for each, the settings and options that make ours their authors'.

A preset gives defaults of flags; a flag beside it wins.  It is named by `python -m adapt --preset NAME`,
in place of a method (`report.methods` of params.yaml), by `python -m adapt.statistics --preset NAME`, and by
`adapt.wrap(preset=NAME)`.  What stays different all the same is said at the top of each method's file.

The papers of Tent, EATA, SAR and NORM adapt on batches of pictures and predict what they adapted on: one view here, the
centre view.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from adapt.errors import MethodError

Options = TypeVar("Options")


@dataclass(frozen=True)
class Preset:
    """Defaults by name of flag."""

    method: str  # a file of adapt/methods
    about: str
    settings: Mapping[str, Any]  # of the method
    video: Mapping[str, Any]  # how clips become frames
    batch_size: int = 1
    statistics: Mapping[str, Any] = field(default_factory=dict)  # of the statistics stage


ONE_VIEW = {"views": 1}
ENTROPY = {"scope": "norm", "lr": 2.5e-4, "momentum": 0.9, "weight_decay": 0.0, "bn_prior": 1.0, "dropout": False}

PRESETS: Mapping[str, Preset] = {
    "vitta_published": Preset(
        "vitta",
        "wlin-at/ViTTA, tta_tanet_ucf101.py and utils/opts.py: TANet-R50 on UCF101-C",
        {
            "scope": "all", "lr": 5e-5, "momentum": 0.9, "weight_decay": 5e-4, "ema": 0.1, "ema_start": "zero",
            "consistency": 0.1, "consistency_over": "sum", "dropout": True, "dropout_rate": 0.8,
        },
        {"frames": 16, "views": 2, "resize": 256, "size": 224, "crop": "multi_scale_whole", "sampling": "vitta"},
    ),
    "norm_published": Preset(
        "norm",
        "bethgelab/robustness, examples/batchnorm: full adaptation; set bn_samples to N for its prior",
        {"bn_prior": 1.0, "bn_variance": "unbiased"},
        ONE_VIEW,
        batch_size=200,
    ),
    "tent_published": Preset(
        "tent", "DequanWang/tent and its paper, section 4: ImageNet", ENTROPY, ONE_VIEW, batch_size=64
    ),
    "eata_published": Preset(
        "eata",
        "mr-eggplant/EATA, main.py: ImageNet",
        ENTROPY | {"entropy_margin": 0.4, "eata_similarity": 0.05, "eata_fisher": 2000.0},
        ONE_VIEW,
        batch_size=64,
        statistics={"fisher": True, "fisher_batch": 64, "bn_prior": 1.0, "max_clips": 2000},
    ),
    "sar_published": Preset(
        "sar",
        "mr-eggplant/SAR, main.py and sar.py: ResNet-50, batches of 32 and more",
        ENTROPY | {
            "entropy_margin": 0.4, "sar_radius": 0.05, "sar_reset": 0.029, "sar_top": "published", "sar_coasts": True,
        },
        ONE_VIEW,
        batch_size=64,
    ),
}  # fmt: skip


def get(name: str) -> Preset:
    """The preset of that name.  Raises MethodError for an unknown one."""
    if name not in PRESETS:
        raise MethodError(f"unknown preset {name!r}: choose one of {sorted(PRESETS)}")
    return PRESETS[name]


def applied(options: type[Options], name: str, values: Mapping[str, Any], *, more: Sequence[Any] = ()) -> type[Options]:
    """The dataclass `options` with the defaults of the preset `name`: `values` by option, and its way to read clips as
    the option `video`; ranges stay.

    `more` are further fields for it, as `dataclasses.make_dataclass` takes them.
    """
    fields = {one.name: one for one in dataclasses.fields(options)}  # type: ignore[arg-type]
    made: list[Any] = [
        (one, type(value), field(default=value, kw_only=True, metadata=fields[one].metadata))
        for one, value in {**values, "preset": name}.items()
    ]
    read: Any = fields["video"].default_factory  # the dataclass of how clips are read
    video = field(default_factory=partial(read, **get(name).video), kw_only=True)
    kind: type[Options] = dataclasses.make_dataclass(
        "Options", [*more, *made, ("video", read, video)], bases=(options,), frozen=True,
        namespace={"__doc__": options.__doc__, "applied": name},
    )  # fmt: skip
    return kind


def check_applied(options: Any) -> None:
    """Raise MethodError where `options` name a preset without having its defaults: a command's `options_for` makes
    those.
    """
    if options.preset and getattr(type(options), "applied", "") != options.preset:
        get(options.preset)  # raises
        raise MethodError(
            f"preset {options.preset} gives defaults of flags: in Python make the options by "
            f"options_for(['--preset', {options.preset!r}])"
        )


def method_of(name: str) -> str:
    """The method that a preset is of, or the name itself where it is no preset's."""
    return PRESETS[name].method if name in PRESETS else name
