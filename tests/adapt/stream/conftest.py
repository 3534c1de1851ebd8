"""What the tests of streams share: a copy of the tiny project, which has a trained model, for each file of tests."""

from pathlib import Path

import pytest

from tests import tiny_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny project, for one file of tests."""
    return tiny_project.copy(tmp_path_factory)


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, and the working directory in it."""
    monkeypatch.chdir(project)
    return project
