"""What a password looks like in an address, in SQL and in the server's words: the regular expressions."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MASK = "***"
_APOSTROPHE = "'"

# What begins an escape in a string, or in a string of a string.
_ESCAPE = r"\\{1,4}"
_LETTERS = dict(zip("\a\b\t\n\v\f\r", "abtnvfr", strict=True))
_ENTITIES = {_APOSTROPHE: "apos"}

# Below this length a secret is replaced only where it stands alone; otherwise a password "a" would leave
# nothing readable.
_SHORT = 4

# In a URL's query, and in a conninfo string (libpq documentation, "Connection Strings").
_IN_QUERY = r"(?i)[?&](?:ssl)?password=([^&\s]*)"
_IN_CONNINFO = (
    r"""(?i)(?:^|[\s;])(?:ssl)?(?:password|passwd|pwd)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*)"""
)
# What `report.render`, and a file outside a transaction, write beside the server's words.
_OF_REPORTS = r"^(?:LINE \d+: |SQLSTATE:  \w+$|(?:DETAIL|HINT|CONTEXT):  )|\bstatement \d+ of \d+\b"
# Somebody's password in a URL, to the last @ of the word; if there is none, to the next @, unless it is a port.
_IN_URL = r"""(://[^\s:/@'"]*:)(?:\S+@|(?!\d{1,5}(?!\w))[^@]{1,2000}+@)"""
# What SQL, libpq, .NET and people call a password, and what makes something else of one.
_NAME = r"(?:passw(?:or)?d|passphrase|pwd)"
_FUNCTION = r"\b(?:crypt|hmac|pgp_\w+|(?:en|de)crypt(?:_iv)?)\s*\("
# Blanks and comments. Here as below nothing can be read in two ways, and
# what is looked for has an end, so that no text takes long.
_GAP = r"(?:\s|/\*(?:[^*]|\*(?!/))*\*/|--[^\n]{0,500}+(?:\n|\Z)|(?!))*+"
_NAMED = rf"(?isx)({_NAME}\\*[\"'`]{{0,2}}{_GAP}"
_LITERAL = r"'(?:[^'\\]|''|\\.)*(?:'|\Z)"
# PASSWORD 'x', 'password', 'x', password => E'x\'y', $$x$$, ''x'' inside another string, and what continues it.
_IN_SQL = (
    rf"{_NAMED}(?:(?:=[=>]?|:=?(?!:)|,|\bto\b){_GAP})?(?:e|u&|n)?)"
    rf"(?:''(?:[^'\\]|\\''|\\[^'])+(?:''|\Z)|{_LITERAL}|\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z))"
    rf"(?:{_GAP},?{_GAP}{_LITERAL})*"
)
# "password": "x", and the same inside another string.
_IN_JSON = (
    rf"{_NAMED}(?:=>?|:){_GAP})"
    r"""(?:"(?:[^"\\]|\\.)*(?:"|\Z)|\\+(?P<quote>["'])(?:(?!\\+(?P=quote)).)*(?:\\+(?P=quote)|\Z))\w*"""
)
# $1 is where a value goes, unless more comes behind it.
_PARAMETER = r"\$\d+(?:::\w+)?[),;]*(?:\s|\Z)"
# password = x, to the word's end, and password: x, to the line's: without what closes something around it.
_AFTER_EQUALS = rf"""{_NAMED}=>?{_GAP})(?!['"]|{_PARAMETER})(?:\\.|[^\s\\]|\\\Z)+?(?=["');,\]}}]*(?:\s|\Z))"""
_AFTER_COLON = rf"""{_NAMED}:(?!:){_GAP})(?!['"])[^\s:][^\n]*?(?=["'}})\]]*\s*(?:\n|\Z))"""
# Key (email, password)=(x, y) already exists.
_IN_KEY = rf"(?is)(\([^()]{{0,1000}}{_NAME}[^()]{{0,1000}}\)\s*=\s*\().*\)"
# crypt('x', …), to the parenthesis that closes it.
_IN_CALL = (
    rf"(?is)({_FUNCTION})(?=[^)]{{0,1000}}['$])"
    r"(?:[^'()]|'[^']*(?:'|\Z)|\((?:[^'()]|'[^']*(?:'|\Z))*(?:\)|\Z))*"
)
# In an address --x is no comment. After all others, as a comment may be in the way to a literal.
_LIKE_A_COMMENT = rf"(?i)({_NAME}=)--\S+"
_BY_NAME = (
    (_IN_SQL, rf"\1'{MASK}'"),
    (_IN_JSON, rf'\1"{MASK}"'),
    (_AFTER_EQUALS, rf"\1{MASK}"),
    (_AFTER_COLON, rf"\1{MASK}"),
    (_IN_KEY, rf"\1{MASK})"),
    (_IN_CALL, rf"\1{MASK}"),
    (_LIKE_A_COMMENT, rf"\1{MASK}"),
)

# An address with a password, which may hold anything, or that is put together; a value that is called a password.
_IN_ADDRESS = (
    rf"(?i)://[^\s:/@']*:(?:(?:[^@']|''){{0,2000}}+@|'(?!'))|{_NAME}(?:\s*=\s*(?:[^\s'=]|'')|\\*[\"']?\s*:(?!:))"
    rf"|{_FUNCTION}[^)]{{0,1000}}['$]"
)
_NAMES_IT = rf"(?i){_NAME}\b"
_ABOUT_COLUMNS = (
    r"(?i)(?:create\s+(?:unlogged\s+|temp\s+|temporary\s+)?table|alter\s+table|comment\s+on|"
    r"create\s+(?:unique\s+)?index)\b"
)


def in_query(address: str) -> frozenset[str]:
    """Return the passwords that a URL has in its query, whose names may be escaped there."""
    found = set(re.findall(_IN_QUERY, address))
    query = address.partition("?")[2]
    if "%" in query:
        from urllib.parse import unquote

        pairs = (part.partition("=") for part in query.split("&"))
        found.update(value for name, _, value in pairs if unquote(name).lower() in ("password", "sslpassword"))
    # To JDBC and others a + is a blank there.
    return frozenset(found | {secret.replace("+", " ") for secret in found})


def in_conninfo(address: str) -> frozenset[str]:
    """Return every form in which the password of a conninfo string could turn up in a text."""
    written = [match[1:-1] if match.startswith("'") else match for match in re.findall(_IN_CONNINFO, address)]
    found = {re.sub(r"\\(.)", r"\1", secret) for secret in written}
    if re.search(r";\s*[\w ]+=", address):  # As .NET writes it.
        found.update(secret.partition(";")[0] for secret in written)
    return frozenset(found)


def pieces_of_report(text: str, filename: str) -> list[str]:
    """Split what the ledger says of a migration that failed: every second piece is ours, by `report.render`."""
    return re.split(rf"(?m)({re.escape(filename)}(?::\d+)?(?:: [A-Z]+:  )?|{_OF_REPORTS})", text)


def mask(text: str, secrets: Sequence[str]) -> str:
    """Return `text` without these secrets; the first is replaced first, as one may contain another."""
    return re.sub("|".join(map(_pattern, secrets)), MASK, text)


def mask_encoded(text: str, secrets: Sequence[str]) -> str:
    """Return `text` without these secrets as URLs, JSON, HTML, SQL and programming languages spell them."""
    patterns = {_encoded(secret) for secret in secrets if not (secret.isascii() and secret.isalnum())}
    return re.sub("|".join(sorted(patterns, key=len, reverse=True)), MASK, text) if patterns else text


def _encoded(secret: str) -> str:
    """Return a pattern for a secret of which each character may be as it is or spelled otherwise, if it is no letter.

    Drivers do not agree on what has to be percent-encoded, nor languages on what is escaped; and a log may have a
    string of another log in it, with its escapes escaped.
    """
    from html.entities import codepoint2name

    def either(character: str) -> str:
        if character.isascii() and character.isalnum():
            return character
        code, utf8 = ord(character), character.encode(errors="surrogateescape")
        utf16 = character.encode("utf-16-be", errors="surrogatepass")
        units = [utf16[index : index + 2].hex() for index in range(0, len(utf16), 2)]
        spellings = [
            "".join(f"%{byte:02x}" for byte in utf8),
            "".join(rf"{_ESCAPE}x{byte:02x}" for byte in utf8),
            "".join(rf"{_ESCAPE}{byte:03o}" for byte in utf8),
            "".join(rf"{_ESCAPE}u{unit}" for unit in units),
            rf"{_ESCAPE}(?:x{code:02x}|u\{{0*{code:x}\}}|U{code:08x})",
            rf"&#(?:0*{code}|x0*{code:x});",
            *(rf"{_ESCAPE}{letter}" for letter in _LETTERS.get(character, "")),
            *(f"&{name};" for name in (_ENTITIES.get(character) or codepoint2name.get(code),) if name),
        ]
        itself = rf"{_ESCAPE}" if character == "\\" else rf"\\{{0,4}}{re.escape(character)}"
        special = {" ": r"|\+", _APOSTROPHE: r"""|''|'"'"'|'\\''"""}.get(character, "")
        return f"(?:(?i:{'|'.join(spellings)}){special}|{itself})"

    return _alone_if_short("".join(map(either, secret)), secret)


def _pattern(secret: str) -> str:
    return _alone_if_short(re.escape(secret), secret)


def _alone_if_short(pattern: str, secret: str) -> str:
    return pattern if len(secret) >= _SHORT else rf"(?<!\w){pattern}(?!\w)"


def mask_in_urls(text: str) -> str:
    """Return `text` without the passwords of URLs."""
    return re.sub(_IN_URL, rf"\1{MASK}@", text)


def mask_by_name(text: str) -> str:
    """Return `text` without what is called a password in it."""
    for pattern, replacement in _BY_NAME:
        text = re.sub(pattern, replacement, text)
    return text


def may_hold_password(statement: str) -> bool:
    """Tell whether a text of SQL may contain a password, so that nothing of it should be quoted.

    Where `password` can only be the name of a column, nothing is hidden; an address may be a column's default.
    """
    if re.search(_IN_ADDRESS, statement):
        return True
    return re.search(_NAMES_IT, statement) is not None and re.match(_ABOUT_COLUMNS, statement) is None
