"""Stages that are killed, find no room, are run twice at once, or meet damaged files and hostile names: a few tries of
each kind here, and as many as there is time for in the slow part.

What is tried is random: `--faults_seed` or EARSHOT_FAULTS_SEED tries it again, `--faults_minutes` tries longer.
"""

import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.project import Project
from tests.faults.stages import Forks
from tests.faults.tries import KINDS

FAST = {"kill": 6, "full": 5, "twice": 1, "flip": 6, "names": 1}  # tries in `make test`


def attempt(kind: str, n: int, made: Project, forks: Forks, dice: random.Random, seed: int, base: Path) -> str:
    """One try; its result, or a failure that says how to try it again."""
    here = base / str(n)
    try:
        result = KINDS[kind](made, forks, dice, here)
    except AssertionError as error:
        pytest.fail(f"{kind}, try {n}, --faults_seed {seed}: {error}", pytrace=False)
    shutil.rmtree(here)
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_or_wrong_whatever_happens_to_a_stage(
    kind: str, made: Project, forks: Forks, dice: random.Random, seed: int, tmp_path: Path
) -> None:
    for n in range(FAST[kind]):
        attempt(kind, n, made, forks, dice, seed, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)  # --faults_minutes decides
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_or_wrong_for_as_long_as_there_is_time(
    kind: str, made: Project, forks: Forks, dice: random.Random, seed: int, tmp_path: Path, until: float
) -> None:
    results: Counter[str] = Counter()
    while time.monotonic() < until:
        results[attempt(kind, results.total(), made, forks, dice, seed, tmp_path)] += 1
    assert results.total() > 1
    print(f"{kind}, --faults_seed {seed}: {results.total()} tries, {dict(results)}")
