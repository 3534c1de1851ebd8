"""The mapper `embedding`: a sound supports the classes whose names lie near to its own in all-MiniLM-L6-v2.  Offline,
no questions.

It knows words, not causes: "Splash, splatter" lies nowhere near to `diving`, and "Cello" lies near to `violin`.
"""

from adapt.errors import MapperError
from pipeline.labels.lists import LabelLists, shown
from pipeline.labels.shortlist import WEIGHTS_SHA256, embed
from pipeline.mappers import LabelMap, Pair, Settings


def map_labels(lists: LabelLists, settings: Settings) -> LabelMap:
    """Connect each sound with the classes at a cosine of at least `settings.min_cosine`; weight: that cosine, to three
    digits.

    Raises MapperError where the threshold is not above 0, at which everything would be connected, or above 1.
    """
    if not 0 < settings.min_cosine <= 1:
        raise MapperError(f"--min_cosine {settings.min_cosine}: a cosine threshold lies above 0 and is at most 1")
    rows = embed([*lists.sounds, *(shown(label) for label in lists.classes)])
    cosines = (rows[: len(lists.sounds)] @ rows[len(lists.sounds) :].T).clip(0, 1).round(3)
    pairs = [
        Pair(int(i), int(j), float(f"{cosines[i, j]:.3f}"), False, f"the names are near: cosine {cosines[i, j]:.3f}")
        for i, j in zip(*(cosines >= settings.min_cosine).nonzero(), strict=True)
    ]
    return LabelMap(pairs, "embedding", {"min_cosine": str(settings.min_cosine), "weights_sha256": WEIGHTS_SHA256})
