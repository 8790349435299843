"""One small hospital for all specification tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lib.synthetic import make


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital of 24 persons."""
    return make(tmp_path_factory.mktemp("synthetic") / "hospital")


@pytest.fixture(scope="session")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital of 20 persons whose record comes in two exports."""
    return make(tmp_path_factory.mktemp("synthetic") / "delivered", patients=20, exports=2, grid=(32, 32, 32))
