"""What the tests of data sets share: a project of their own to stand in."""

from pathlib import Path

import pytest

from tests.pipeline.datasets.layouts import enter_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_project(tmp_path, monkeypatch)
