"""Keep passwords out of every output: logs, error texts, the ledger, the application's environment.

Three sources are known to carry them. The address that was configured: its password is a secret wherever it
turns up, raw or percent-decoded. libpq's complaints about an address that it cannot parse: they quote the
piece that surprised it, which in a badly escaped URL is a piece of the password, so everything between
quotation marks goes. And SQL that sets a role's password.

Regular expressions are imported where a text may have something to hide: most have not, and `re` takes 7 ms of a start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MASK = "***"

# Fields of the log whose values are words of this program's own, be they somebody's password or not.
_FROM_LISTS = frozenset(("cause", "sqlstate", "verdict", "signal"))

# Below this length a secret is replaced only where it stands alone; otherwise a password "a" would leave
# nothing readable.
_SHORT = 4

# In a URL's query, and in a conninfo string (libpq documentation, "Connection Strings").
_IN_QUERY = r"(?i)[?&](?:ssl)?password=([^&\s]*)"
_IN_CONNINFO = r"""(?i)(?:^|\s)(?:ssl)?password\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*)"""
# ... PASSWORD 'x', E'x\'y', $$x$$, ''x'' inside another string, and a conninfo string's password=x.
_IN_SQL = r"""(?isx)
        (\bpassword\s*=?\s*(?:e|u&)?)
        (?: ''[^']+'' | '(?:[^'\\]|''|\\.)*'? | \$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z) | (?<==)[^\s'"$]+ )"""


def secrets_of(address: str) -> frozenset[str]:
    """Return every form in which the password of a URL or conninfo string could turn up in a text."""
    _, is_url, rest = address.partition("://")
    by_keyword = "password" in address.lower()
    found: set[str] = set()
    if is_url:
        if by_keyword:
            import re

            found.update(re.findall(_IN_QUERY, address))
        # To the last @: where the password has an @ of its own, that is too much, which is the safe side.
        userinfo, _, _ = rest.rpartition("@")
        found.add(userinfo.partition(":")[2])
        # ... and what libpq takes for the password, which ends at the first @.
        found.add(rest.partition("@")[0].partition(":")[2] if "@" in rest else "")
        if any("%" in secret for secret in found):
            from urllib.parse import unquote

            found |= {unquote(secret) for secret in found}
    elif by_keyword:
        import re

        written = [match[1:-1] if match.startswith("'") else match for match in re.findall(_IN_CONNINFO, address)]
        found.update(re.sub(r"\\(.)", r"\1", secret) for secret in written)
    return frozenset(secret for secret in found if secret)


def mask_quoted(text: str) -> str:
    """Replace all from the first quotation mark to the last, for texts that quote pieces of an address."""
    first, last = text.find('"'), text.rfind('"')
    return text if first == last else f'{text[:first]}"{MASK}"{text[last + 1 :]}'


_SENSITIVE = r"(?i)\bpassword\b|://[^\s/@']*:[^\s@']*@"
_ABOUT_COLUMNS = (
    r"(?i)(?:create\s+(?:unlogged\s+|temp\s+|temporary\s+)?table|alter\s+table|comment\s+on|"
    r"create\s+(?:unique\s+)?index)\b"
)


def may_hold_password(statement: str) -> bool:
    """Tell whether a text of SQL may contain a password, so that nothing of it should be quoted.

    Where `password` can only be the name of a column, nothing is hidden.
    """
    import re

    return re.search(_SENSITIVE, statement) is not None and re.match(_ABOUT_COLUMNS, statement) is None


class Redactor:
    """Replaces known secrets in texts and in the fields of a log line."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Take the secrets; the longest is replaced first, as one may contain another."""
        self._secrets = sorted(set(secrets), key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return `text` without a secret in it."""
        if any(secret in text for secret in self._secrets):
            import re

            text = re.sub("|".join(map(_pattern, self._secrets)), MASK, text)
        if "password" in text.lower():
            import re

            text = re.sub(_IN_SQL, rf"\1'{MASK}'", text)
        return text

    def value(self, value: object) -> object:
        """Return `value` with every text in it redacted, however deep."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return self.mapping(value)
        return value

    def mapping(self, values: Mapping[str, object]) -> dict[str, object]:
        """Return `values` with every text in them redacted."""
        return {name: value if name in _FROM_LISTS else self.value(value) for name, value in values.items()}


def _pattern(secret: str) -> str:
    import re

    return re.escape(secret) if len(secret) >= _SHORT else rf"(?<!\w){re.escape(secret)}(?!\w)"
