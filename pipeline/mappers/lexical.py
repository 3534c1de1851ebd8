"""The control: a sound supports the classes whose words its name contains.  Knows nothing of meaning, needs nothing."""

import re

from pipeline.labels.lists import LabelLists, shown
from pipeline.mappers import LabelMap, Pair, Settings

STOP_WORDS = frozenset({"a", "an", "and", "in", "of", "or", "the", "to"})
MIN_SHARE = 0.5  # of a class name's words


def words(name: str) -> frozenset[str]:
    """The words of a name: lower case, plural s cut off, words without content left out."""
    found = re.findall(r"[^\W_]+", shown(name).lower())
    stems = (word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word for word in found)
    return frozenset(stem for stem in stems if stem not in STOP_WORDS)


def map_labels(lists: LabelLists, settings: Settings) -> LabelMap:
    """Connect each sound with the classes of whose words it has at least half; weight: that share."""
    classes = [words(label) for label in lists.classes]
    pairs = []
    for audio_id, sound in enumerate(lists.sounds):
        heard = words(sound)
        for label_id, wanted in enumerate(classes):
            common = heard & wanted
            if wanted and len(common) / len(wanted) >= MIN_SHARE:
                reason = f"both names say {' '.join(sorted(common))}"
                pairs.append(Pair(audio_id, label_id, len(common) / len(wanted), False, reason))
    return LabelMap(pairs, "lexical", {})
