"""What the tests of decoding share: a film that can be read."""

from pathlib import Path

import pytest

from tests import numbered


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return numbered.write(tmp_path_factory.mktemp("film") / "a.mp4", range(20), "-c:v", "libx264")
