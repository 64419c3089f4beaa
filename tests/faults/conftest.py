"""What the faults need, once for each worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.machinery import Machinery

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def machinery(tmp_path_factory: pytest.TempPathFactory, _chosen_version: int) -> Iterator[Machinery]:
    """Yield this worker's own server, to be killed and frozen, and what else the faults need."""
    with Machinery(tmp_path_factory.mktemp("machinery"), _chosen_version) as machinery:
        yield machinery
