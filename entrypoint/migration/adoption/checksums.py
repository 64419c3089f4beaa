"""What a tool recorded of a file's text, worked out again from our file: it differs if somebody changed the file since.

Flyway: CRC-32 of the lines without their ends, as a signed number. sqlx: SHA-384, Prisma: SHA-256, both of the file's
bytes. `import` puts lines above a file and takes a byte-order mark away, and leaves the rest as it was.
"""

from __future__ import annotations

import hashlib
import re
import zlib

_OUR_LINES = re.compile(rb"(?:-- entrypoint:[^\n]*\n)+")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\r|\n")


def differs(tool: str, content: bytes, recorded: str) -> bool:
    """Tell whether a file of ours is not the text of which the tool `recorded` that. False for tools that do not."""
    lines = _OUR_LINES.match(content)
    original = content[lines.end() :] if lines else content
    if tool == "flyway":
        return recorded != _flyway(original)
    algorithm = {"sqlx": hashlib.sha384, "prisma": hashlib.sha256}.get(tool)
    if algorithm is None:
        return False
    return recorded not in {algorithm(before + original).hexdigest() for before in (b"", _BYTE_ORDER_MARK)}


def _flyway(content: bytes) -> str:
    checksum = 0
    lines = _LINE_END.split(content)
    for line in lines if lines[-1] else lines[:-1]:
        checksum = zlib.crc32(line, checksum)
    return str(checksum - 2**32 if checksum >= 2**31 else checksum)
