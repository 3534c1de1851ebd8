"""What the tests of pseudo-labels share: a project root in which `pets` has been tagged and mapped."""

from pathlib import Path

import pytest

from tests import pets


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pets.made(tmp_path_factory)


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root in which `pets` has been tagged and mapped."""
    return pets.enter(made, tmp_path, monkeypatch)
