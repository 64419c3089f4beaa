"""The regular expressions that find passwords in addresses, in SQL and in the server's messages."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MASK = "***"
_APOSTROPHE = "'"

# Begins an escape in a string, or in a string inside a string.
_ESCAPE = r"\\{1,4}"
_LETTERS = dict(zip("\a\b\t\n\v\f\r", "abtnvfr", strict=True))
_ENTITIES = {_APOSTROPHE: "apos"}

# A shorter secret is only replaced if it is a word by itself; otherwise a password "a" would leave nothing readable.
_SHORT = 4

# In a URL's query, and in a conninfo string (libpq documentation, "Connection Strings").
_IN_QUERY = r"(?i)[?&](?:ssl)?password=([^&\s]*)"
_IN_CONNINFO = (
    r"""(?i)(?:^|[\s;])(?:ssl)?(?:password|passwd|pwd)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*)"""
)
# The text that `report.render`, and a file outside a transaction, add to the server's messages.
_OF_REPORTS = r"^(?:LINE \d+: |SQLSTATE:  \w+$|(?:DETAIL|HINT|CONTEXT):  )|\bstatement \d+ of \d+\b"
# A password in a URL: up to the last @ of the word or, if there is none, up to the next @, unless it is a port.
_IN_URL = r"""(://[^\s:/@'"]*:)(?:\S+@|(?!\d{1,5}(?!\w))[^@]{1,2000}+@)"""
# Names for a password in SQL, libpq, .NET and plain text, and functions that take one.
_NAME = r"(?:passw(?:or)?d|passphrase|pwd)"
_FUNCTION = r"\b(?:crypt|hmac|pgp_\w+|(?:en|de)crypt(?:_iv)?)\s*\("
# Blanks and comments. As in the patterns below, nothing can match in two ways, and searches are bounded, so that no
# text takes long.
_GAP = r"(?:\s|/\*(?:[^*]|\*(?!/))*\*/|--[^\n]{0,500}+(?:\n|\Z)|(?!))*+"
_NAMED = rf"(?isx)({_NAME}\\*[\"'`]{{0,2}}{_GAP}"
_LITERAL = r"'(?:[^'\\]|''|\\.)*(?:'|\Z)"
# PASSWORD 'x', 'password', 'x', password => E'x\'y', $$x$$, ''x'' inside another string, and their continuations.
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
# $1 is a placeholder for a value, unless more follows it.
_PARAMETER = r"\$\d+(?:::\w+)?[),;]*(?:\s|\Z)"
# password = x up to the end of the word, and password: x up to the end of the line, without closing punctuation.
_AFTER_EQUALS = rf"""{_NAMED}=>?{_GAP})(?!['"]|{_PARAMETER})(?:\\.|[^\s\\]|\\\Z)+?(?=["');,\]}}]*(?:\s|\Z))"""
_AFTER_COLON = rf"""{_NAMED}:(?!:){_GAP})(?!['"])[^\s:][^\n]*?(?=["'}})\]]*\s*(?:\n|\Z))"""
# Key (email, password)=(x, y) already exists.
_IN_KEY = rf"(?is)(\([^()]{{0,1000}}{_NAME}[^()]{{0,1000}}\)\s*=\s*\().*\)"
# crypt('x', …), up to its closing parenthesis.
_IN_CALL = (
    rf"(?is)({_FUNCTION})(?=[^)]{{0,1000}}['$])"
    r"(?:[^'()]|'[^']*(?:'|\Z)|\((?:[^'()]|'[^']*(?:'|\Z))*(?:\)|\Z))*"
)
# In an address, --x is not a comment. This is the last pattern, because a comment may come before a literal.
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

# An address with a password, even one concatenated from parts; a value named as a password.
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
    """Return the passwords in a URL's query. The names of the parameters may be escaped."""
    found = set(re.findall(_IN_QUERY, address))
    query = address.partition("?")[2]
    if "%" in query:
        from urllib.parse import unquote

        pairs = (part.partition("=") for part in query.split("&"))
        found.update(value for name, _, value in pairs if unquote(name).lower() in ("password", "sslpassword"))
    # For JDBC and others, a + in the query is a blank.
    return frozenset(found | {secret.replace("+", " ") for secret in found})


def in_conninfo(address: str) -> frozenset[str]:
    """Return every form in which the password of a conninfo string could appear in a text."""
    written = [match[1:-1] if match.startswith("'") else match for match in re.findall(_IN_CONNINFO, address)]
    found = {re.sub(r"\\(.)", r"\1", secret) for secret in written}
    if re.search(r";\s*[\w ]+=", address):  # As .NET writes it.
        found.update(secret.partition(";")[0] for secret in written)
    return frozenset(found)


def pieces_of_report(text: str, filename: str) -> list[str]:
    """Split a failed migration's message from the ledger: every second piece is ours, from `report.render`."""
    return re.split(rf"(?m)({re.escape(filename)}(?::\d+)?(?:: [A-Z]+:  )?|{_OF_REPORTS})", text)


def mask(text: str, secrets: Sequence[str]) -> str:
    """Return `text` without these secrets. They are replaced in this order, as one may contain another."""
    return re.sub("|".join(map(_pattern, secrets)), MASK, text)


def mask_encoded(text: str, secrets: Sequence[str]) -> str:
    """Return `text` without these secrets as encoded in URLs, JSON, HTML, SQL and programming languages."""
    patterns = {_encoded(secret) for secret in secrets if not (secret.isascii() and secret.isalnum())}
    return re.sub("|".join(sorted(patterns, key=len, reverse=True)), MASK, text) if patterns else text


def _encoded(secret: str) -> str:
    """Return a pattern for a secret in which each character, except letters and digits, may be encoded.

    Drivers differ in what they percent-encode, and languages in what they escape. A log may also quote a string from
    another log, with its escapes escaped again.
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
    """Return `text` without the passwords in URLs."""
    return re.sub(_IN_URL, rf"\1{MASK}@", text)


def mask_by_name(text: str) -> str:
    """Return `text` without values that are named as passwords."""
    for pattern, replacement in _BY_NAME:
        text = re.sub(pattern, replacement, text)
    return text


def may_hold_password(statement: str) -> bool:
    """Tell whether SQL may contain a password, so that none of it should be quoted.

    If `password` can only be the name of a column, nothing is hidden. But a column's default may be an address.
    """
    if re.search(_IN_ADDRESS, statement):
        return True
    return re.search(_NAMES_IT, statement) is not None and re.match(_ABOUT_COLUMNS, statement) is None
