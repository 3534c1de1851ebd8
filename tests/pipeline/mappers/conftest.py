"""What the tests of mappers share: a project of their own to stand in."""

from pathlib import Path

import pytest

from tests import chat as served


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(served.make_project(tmp_path))
    return tmp_path
