"""Draw all corruptions of a clip as one picture: `python -m adapt.corruptions CLIP --out sheet.png`.

Rows are corruptions, columns severities from 0 (clean) to 5; each cell is the clip's middle frame as the adapter would
read it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from adapt import command
from adapt.errors import AdaptError
from adapt.tables.cache import Clip
from adapt.video.clips import VideoOptions, read_clip
from adapt.video.corruptions import BENCHMARK, OTHERS

MARGIN = 120  # pixels for the names
LINE = 24  # pixels for the severities
TEXT = 14  # pixels


@dataclass(frozen=True)
class Options:
    """Draw all corruptions of a clip, one row each, one column a severity."""

    clip: tyro.conf.Positional[Path]  # a video
    out: Path = Path("sheet.png")  # the picture, PNG or JPEG by its ending
    size: int = command.number(224, low=1, high=8192)  # side of the centre crop that is corrupted, pixels
    cell: int = command.number(160, low=1, high=8192)  # side of a cell, pixels
    seed: int = command.number(0, low=0)


def sheet(options: Options) -> Image.Image:
    """The contact sheet.  Raises VideoError where the clip cannot be read."""
    names, severities = (*BENCHMARK, *OTHERS), range(6)
    video = VideoOptions(frames=1, views=1, resize=options.size, size=options.size)
    clip = Clip(options.clip.stem, options.clip, "test", 0, "ok")
    picture = Image.new("RGB", (MARGIN + len(severities) * options.cell, LINE + len(names) * options.cell), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    for column, severity in enumerate(severities):
        draw.text(
            (MARGIN + column * options.cell + 4, 4), f"severity {severity}" if severity else "clean", "black", font
        )
    for row, name in enumerate(names):
        draw.text((4, LINE + row * options.cell + options.cell // 2), name, "black", font)
        for column, severity in enumerate(severities):
            frame = read_clip(clip, video, name, severity, options.seed).centre[0, :, 0].permute(1, 2, 0).numpy()
            cell = Image.fromarray(np.ascontiguousarray(frame)).resize((options.cell, options.cell))
            picture.paste(cell, (MARGIN + column * options.cell, LINE + row * options.cell))
    return picture


def run(options: Options) -> dict[str, object]:
    """Write the sheet and return where."""
    if options.size < 1 or options.cell < 1:
        raise AdaptError(f"--size {options.size} and --cell {options.cell} are sides in pixels: give 1 or more")
    picture = sheet(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        picture.save(options.out)
    except (ValueError, OSError) as error:
        raise AdaptError(f"{options.out} cannot be written ({error}): give a name that ends in .png or .jpg") from error
    return {"sheet": str(options.out), "width": picture.width, "height": picture.height}
