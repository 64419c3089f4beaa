"""Files that are in no directory, even with a Python that was built without the system call for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from entrypoint.memory import file_in_memory


@pytest.mark.parametrize("python", ["as it is", "built for an old glibc"])
def test_a_file_in_memory(monkeypatch: pytest.MonkeyPatch, python: str) -> None:
    if python != "as it is":
        monkeypatch.delattr(os, "memfd_create")
    descriptor = file_in_memory("a name")
    try:
        assert str(Path(f"/proc/self/fd/{descriptor}").readlink()) == "/memfd:a name (deleted)"
        assert not os.get_inheritable(descriptor)
        os.write(descriptor, b"said")
        assert os.pread(descriptor, 10, 0) == b"said"
    finally:
        os.close(descriptor)
