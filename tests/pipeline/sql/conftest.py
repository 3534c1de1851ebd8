"""What the tests of the query share: a project root in which `pets` has pseudo-labels."""

from pathlib import Path

import pytest

from tests import pets


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All but adapt has run; a file of tests may have one of its own."""
    return pets.made(tmp_path_factory, pets.label)


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root in which what `made` says has run."""
    return pets.enter(made, tmp_path, monkeypatch)
