"""What every stage that has a source model is told: which model of which data set, and how clips are read."""

from dataclasses import KW_ONLY, dataclass, field

from adapt.video.clips import VideoOptions


@dataclass(frozen=True)
class ModelOptions:
    """A model, its data set, how its clips are read, and where it runs."""

    dataset: str
    backbone: str
    _: KW_ONLY
    variant: str = ""  # one of the backbone's sizes; "" for its first
    classes: str = ""
    """a list that names the head's outputs, a line each, where these are not the data set's classes: class_map leads
    from one to the other; "" for the data set's own"""
    video: VideoOptions = field(default_factory=VideoOptions)
    device: str = "cpu"  # cpu, cuda, or a numbered one such as cuda:1
