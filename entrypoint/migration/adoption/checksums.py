"""Checksums as other tools record them, computed from our file. They differ if the file has changed since.

Flyway: CRC-32 of the lines without their ends, as a signed number. sqlx: SHA-384, Prisma: SHA-256, both of the file's
bytes. `import` adds lines at the top and removes a byte-order mark, and keeps the rest.
"""

from __future__ import annotations

import hashlib
import re
import zlib

from entrypoint.migration.script.files import BYTE_ORDER_MARK

_OUR_LINES = re.compile(rb"(?:-- entrypoint:[^\n]*\n)+")
_LINE_END = re.compile(rb"\r\n|\r|\n")


def differs(tool: str, content: bytes, recorded: str) -> bool:
    """Return whether a file differs from the text that the tool `recorded`. False for tools without checksums."""
    lines = _OUR_LINES.match(content)
    original = content[lines.end() :] if lines else content
    if tool == "flyway":
        return recorded != _flyway(original)
    algorithm = {"sqlx": hashlib.sha384, "prisma": hashlib.sha256}.get(tool)
    if algorithm is None:
        return False
    return recorded not in {algorithm(before + original).hexdigest() for before in (b"", BYTE_ORDER_MARK)}


def _flyway(content: bytes) -> str:
    checksum = 0
    lines = _LINE_END.split(content)
    for line in lines if lines[-1] else lines[:-1]:
        checksum = zlib.crc32(line, checksum)
    return str(checksum - 2**32 if checksum >= 2**31 else checksum)
