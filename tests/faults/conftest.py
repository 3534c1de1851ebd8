"""A project that every stage has run in, the program that runs stages again, the seed, and the time there is."""

import os
import random
import time
from collections.abc import Iterator

import pytest

from tests.faults import project
from tests.faults.project import Project
from tests.faults.stages import Forks

SLOW_S = 120.0  # of all slow tests of this folder together, unless --faults_minutes says otherwise
N_SLOW = 5  # those that share it


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """Of everything that is random here; it stands in the message of each failure."""
    given = request.config.getoption("--faults_seed") or os.environ.get("EARSHOT_FAULTS_SEED")
    return int(given) if given else random.SystemRandom().randrange(1 << 32)


@pytest.fixture
def dice(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of a test, the same for the same seed whatever tests run beside it."""
    return random.Random(f"{seed} {request.node.name}")


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs stages."""
    with Forks() as running:
        yield running


@pytest.fixture(scope="session")
def made(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project, made once."""
    return project.make(tmp_path_factory.mktemp("faults"), forks)


@pytest.fixture
def until(request: pytest.FixtureRequest) -> float:
    """When a slow test ends, by time.monotonic."""
    minutes = request.config.getoption("--faults_minutes")
    return time.monotonic() + (60.0 * float(minutes) if minutes else SLOW_S) / N_SLOW
