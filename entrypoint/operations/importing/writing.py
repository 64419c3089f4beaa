"""Write imported files: first all of them next to their destination, then move all of them there, or none."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil

from entrypoint.errors import ConfigurationError
from entrypoint.operations.importing.values import UnreadableError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from entrypoint.operations.importing.naming import TargetFile
    from entrypoint.operations.importing.values import Source

_FIRST_LINES = 4096


@contextlib.contextmanager
def staged(parent: str, targets: Iterable[TargetFile], source: Source) -> Iterator[str]:
    """Write `targets` into a new directory in `parent`, and remove it at the end.

    It is in the same file system as the destination, so that the files can be moved there.
    """
    stage = os.path.join(parent, f".entrypoint-import-{secrets.token_hex(6)}")
    try:
        os.makedirs(stage)
        for target in targets:
            path = os.path.join(stage, target.path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write(path, target, source.content(target.part.path))
        yield stage
    except UnreadableError as error:
        raise ConfigurationError(
            f"{error.args[0]!r} can no longer be read: {error.args[1]}; nothing was written", remedy="Import again."
        ) from error
    except OSError as error:
        raise _cannot_write(error.filename or parent, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _write(path: str, target: TargetFile, content: bytes) -> None:
    """Write one file: the lines above, with the file's own line endings, and its parts."""
    newline = b"\r\n" if b"\r\n" in content[:_FIRST_LINES] else b"\n"
    view = memoryview(content)
    with open(path, "xb") as file:
        file.writelines(line.encode() + newline for line in target.header)
        for piece in target.part.pieces:
            file.write(piece.before)
            file.write(view[piece.start : piece.stop])
            file.write(piece.after)


def move(stage: str, into: str, paths: Sequence[str]) -> None:
    """Move files from `stage` to `into`: all or none. Never overwrites a file."""
    moved: list[str] = []
    made: list[str] = []
    try:
        for path in paths:
            target = os.path.join(into, path)
            _make(os.path.dirname(target), made)
            _link(os.path.join(stage, path), target, moved)
    except BaseException as error:
        for target in moved:
            with contextlib.suppress(OSError):
                os.unlink(target)
        for directory in reversed(made):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        if isinstance(error, OSError):
            raise _cannot_write(error.filename2 or error.filename or into, error) from error
        raise


def _make(directory: str, made: list[str]) -> None:
    if directory and not os.path.isdir(directory):
        _make(os.path.dirname(directory), made)
        os.mkdir(directory)
        made.append(directory)


def _link(source: str, target: str, moved: list[str]) -> None:
    """Give a file its name. Unlike renaming, this fails if such a file exists by now."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # Not every file system supports links.
        with open(source, "rb") as reader, open(target, "xb") as writer:
            moved.append(target)
            shutil.copyfileobj(reader, writer)
    else:
        moved.append(target)


def _cannot_write(path: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{path!r} cannot be written: {error.strerror}; nothing was written",
        remedy="Name a directory that can be written to: entrypoint import --into DIRECTORY.",
    )
