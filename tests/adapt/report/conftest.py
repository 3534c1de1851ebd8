"""What the tests of the report share: a data set's cache, in a project of its own."""

from pathlib import Path

import pytest

from tests.adapt.report.runs import TRUTH, write_clips


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_clips(TRUTH)
    return tmp_path
