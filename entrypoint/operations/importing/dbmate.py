r"""dbmate: both directions in one file, below `-- migrate:up` and `-- migrate:down`, with options on the same line.

Names: `FindMigrations` in dbmate's `pkg/dbmate/db.go` (`^(\d+).*\.sql$`, in the order of the names as texts); what is
in a file: `pkg/dbmate/migration.go`, and the chapter "Creating Migrations" of its README. Several pairs in one file run
one after the other, each in its own transaction unless its mark says `transaction:false`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from entrypoint.operations.importing import texts
from entrypoint.operations.importing.values import Contents, Direction, Fault, Left, Migration, Section

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoint.operations.importing.values import Source


_NAME = re.compile(r"([0-9]+)(.*)\.sql", re.DOTALL)
_MARK = re.compile(rb"^--[ \t]*migrate:(up|down)(?:[ \t\r]+([^\n]*))?(?:\n|\Z)", re.MULTILINE)


def read(source: Source) -> Contents:
    """Return dbmate's migrations in the order of their files' names."""
    found: list[Migration] = []
    left: list[Left] = []
    faults: list[Fault] = []
    others: list[str] = []
    for path in sorted(texts.in_the_directory(source.paths)):
        name = _NAME.fullmatch(path)
        if name is None:
            others += [path] if texts.looks_like_sql(path) else []
            continue
        content = source.content(path)
        file = _parse(content)
        if isinstance(file, Fault):
            faults.append(file._replace(sources=(path,)))
            continue
        back = _part(path, content, file.back)
        if file.back and back is None:
            left.append(texts.no_way_back(path))
        forward = _part(path, content, file.forward) or Direction(path, tuple(one.piece for one in file.forward))
        found.append(
            Migration(path, name[1], name[1], name[2], forward._replace(pieces=(file.above, *forward.pieces)), back)
        )
    faults += texts.doubled(found, "dbmate")
    left += texts.not_looked_at(others, "dbmate", "NUMBER_description.sql")
    return Contents(tuple(found), left=tuple(left), faults=tuple(faults))


class _Block(NamedTuple):
    piece: Section
    transaction: bool


class _File(NamedTuple):
    above: Section
    """The comments above the first mark."""
    forward: list[_Block]
    back: list[_Block]


def _parse(content: bytes) -> _File | Fault:
    marks = list(_MARK.finditer(content))
    if not marks or marks[0][1] != b"up":
        return Fault((), "dbmate rejects it too: its first mark must be `-- migrate:up`")
    above = Section(0, marks[0].start())
    if (early := texts.first_statement(content, 0, marks[0].start())) is not None:
        where = texts.line_of(content, early)
        return Fault((), "dbmate rejects it too: this comes before `-- migrate:up`", where)
    blocks: dict[bytes, list[_Block]] = {b"up": [], b"down": []}
    ends = [*(mark.start() for mark in marks[1:]), len(content)]
    for number, (mark, end) in enumerate(zip(marks, ends, strict=True)):
        if number and mark[1] == b"down" == marks[number - 1][1]:
            where = texts.line_of(content, mark.start())
            return Fault((), "dbmate rejects it too: a second `-- migrate:down` after one `-- migrate:up`", where)
        options = (mark[2] or b"").split()
        blocks[mark[1]].append(_Block(texts.closed(content, mark.end(), end), b"transaction:false" not in options))
    return _File(above, blocks[b"up"], blocks[b"down"])


def _part(path: str, content: bytes, blocks: Sequence[_Block]) -> Direction | None:
    """Return the blocks of one direction. If only some have a transaction, it is written into them."""
    pieces = [block.piece for block in blocks]
    if not texts.has_statements(content, pieces):
        return None
    if len(blocks) == 1:  # The last statement needs no semicolon.
        return Direction(path, (pieces[0]._replace(after=b""),), not blocks[0].transaction)
    if all(block.transaction for block in blocks) or not any(block.transaction for block in blocks):
        return Direction(path, tuple(pieces), not blocks[0].transaction)
    wrapped = [
        piece._replace(before=b"BEGIN;\n", after=piece.after + _line_end(content, piece) + b"COMMIT;\n")
        if block.transaction
        else piece
        for block, piece in zip(blocks, pieces, strict=True)
    ]
    return Direction(path, tuple(wrapped), no_transaction=True)


def _line_end(content: bytes, piece: Section) -> bytes:
    return b"" if piece.after or content.endswith(b"\n", piece.start, piece.stop) else b"\n"
