"""What the tests of the source model share: a project with grey clips and no model."""

from pathlib import Path

import pytest

from tests import greys


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    greys.make(folder)
    return folder
