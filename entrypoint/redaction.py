"""Keeps passwords out of every output: logs, error texts, the ledger, the application's environment.

Every text is either ours or foreign. Foreign texts come from the server, libpq, a child process, the command line, a
variable, a row or a migration file. They are searched for secrets where they come in, by `foreign`. Our own texts
(sentences, numbers, checked file names) are never searched: a gap in a well-known sentence would reveal the password
(docs/decisions/0028-foreign-texts-are-searched-where-they-come-in.md).

Secrets are known to come from three sources. First, the configured address: its password is a secret wherever it
appears, raw or percent-decoded. Second, libpq's errors about an address that it cannot parse: they quote the unexpected
part, which in a badly escaped URL is part of the password, so everything between quotation marks is removed. Third, SQL
and addresses in foreign texts, which may contain other passwords.

The regular expressions (`secret_patterns`) are only imported if a text may contain a secret. Most do not, and importing
`re` takes 7 ms of a start.
"""

from __future__ import annotations

from _thread import _local

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MASK = "***"

# From this length on, a secret with small and capital letters and digits cannot be one of our words.
_LONG = 12
_VERY_LONG = 24
# How many expiring secrets to remember: more than are ever in use at once.
_MOST_PASSING = 64
# White space that is safe to show as it is.
_HARMLESS = "\t\u00a0\u2002\u2003\u2009\u202f\u3000"

# A text with a secret that is encoded as in URLs, program code, HTML or SQL contains one of these.
_ENCODED = ("%", "\\", "&", "''")
# A text in which `secret_patterns` finds a secret by its name contains one of these.
_SIGNS = ("passw", "passphrase", "pwd", "crypt", "hmac", "pgp_")


def secrets_of(address: str) -> frozenset[str]:
    """Return every form in which the password of a URL or conninfo string could appear in a text."""
    _, is_url, rest = address.partition("://")
    lowered = address.lower()
    by_keyword = "password" in lowered or "passwd" in lowered or "pwd" in lowered
    found: set[str] = set()
    if is_url or address.startswith("jdbc:"):
        if by_keyword or any("%" in part.partition("=")[0] for part in address.partition("?")[2].split("&")):
            from entrypoint import secret_patterns

            found.update(secret_patterns.in_query(address))
        # Up to the last @. That may be too much, but is safe if the password itself contains an @.
        userinfo, _, _ = rest.rpartition("@")
        found.add(userinfo.partition(":")[2])
        # And libpq's view of the password, which ends at the first @.
        found.add(rest.partition("@")[0].partition(":")[2] if "@" in rest else "")
        if any("%" in secret for secret in found):
            from urllib.parse import unquote

            found |= {unquote(secret) for secret in found}
    elif by_keyword:
        from entrypoint import secret_patterns

        found |= secret_patterns.in_conninfo(address)
    elif lacks_scheme(address):
        found.add(address.rpartition("@")[0].partition(":")[2])
    return frozenset(secret for secret in found if secret)


def lacks_scheme(address: str) -> bool:
    """Tell whether this may be a URL with a password but without postgresql://. The name of an image is not one."""
    user, colon, rest = address.partition(":")
    if "@sha256:" in rest:
        return False
    return bool(colon) and "@" in rest and not any(one in "/@=" or one.isspace() for one in user)


def mask_quoted(text: str) -> str:
    """Replace everything from the first quotation mark to the last, for texts that quote parts of an address."""
    first, last = text.find('"'), text.rfind('"')
    return text if first == last else f'{text[:first]}"{MASK}"{text[last + 1 :]}'


def mask_values(text: str) -> str:
    """Replace what the server's DETAIL quotes, and a row's values, which it puts in parentheses."""
    text = mask_quoted(text)
    first, last = text.find("("), text.rfind(")")
    return f"{text[:first]}({MASK}{text[last:]}" if 0 <= first < last else text


def know(secrets: Iterable[str]) -> None:
    """Set the secrets that `foreign` searches for from now on."""
    _here.secrets.know(secrets)


def know_for_now(secrets: Iterable[str]) -> None:
    """Add secrets that will be replaced by others later. If there are many, the earliest are forgotten."""
    _here.secrets.know_for_now(secrets)


def secrets_here() -> Secrets:
    """Return the secrets that are searched for in this thread's texts."""
    return _here.secrets


def search_for(secrets: Secrets) -> None:
    """Search this thread's texts for these secrets instead of the process's."""
    _here.secrets = secrets


def foreign(text: str) -> str:
    """Return a foreign `text` without secrets. Call this once per text to be shown or stored, where it comes in."""
    return _here.secrets.known.text(text)


def foreign_report(text: str, filename: str) -> str:
    """Return a failed migration's message from the ledger without secrets; the parts from `report.render` are ours."""
    if foreign(text) == text:
        return text
    from entrypoint import secret_patterns

    pieces = secret_patterns.pieces_of_report(text, filename)
    return "".join(piece if index % 2 else foreign(piece) for index, piece in enumerate(pieces))


def named(name: str, beside: str = "") -> str:
    """Return a configured name unchanged if it is a plain word; otherwise without secrets, or only the mask.

    A plain word consists of letters, digits, `_`, `-`, `.` and the characters in `beside`. It cannot be an address with
    a password, and a gap in it, as in `user: ***gres`, would reveal the password. If the name may be part of an address
    that was read differently than its author meant, none of it is shown.
    """
    if "://" in name or "=" in name or "@" in name.partition(":")[2] or not name.isprintable():
        return MASK
    letters = name
    for one in f"_-.{beside}":
        letters = letters.replace(one, "")
    return name if not letters or letters.isalnum() else _here.secrets.known.text(name)


def foreign_values(values: Mapping[str, object]) -> dict[str, object]:
    """Return `values` with `foreign` applied to every text in them."""
    return _here.secrets.known.mapping(values)


def without_addresses(text: str) -> str:
    """Return a `text` without passwords that the words around them reveal. For texts that may be partly our own."""
    return Redactor().text(text)


def catch(text: str) -> str:
    """Return `text` without secrets that cannot be ordinary words: a safety net for foreign texts that slip through."""
    return _here.secrets.net.known(text)


def catch_values(values: Mapping[str, object]) -> dict[str, object]:
    """Return `values` with `catch` applied to every text in them."""
    net = _here.secrets.net
    return {name: net.value(value, net.known) for name, value in values.items()}


def _cannot_be_ours(secret: str) -> bool:
    """Tell whether `secret` looks generated, so that none of our sentences, numbers or file names can contain it."""
    small, capital, digit = (
        any(first <= character <= last for character in secret) for first, last in ("az", "AZ", "09")
    )
    if any(character.isspace() for character in secret):
        return False
    # The second kind are hexadecimal tokens. Our file names also have underscores.
    return digit and small and (len(secret) >= _LONG if capital else len(secret) >= _VERY_LONG and "_" not in secret)


def visible(text: str) -> str:
    """Return `text` on one line. Characters that a terminal would interpret or hide become escapes, as in Python."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in _HARMLESS else _escaped(character) for character in text
    )


def visible_lines(text: str) -> list[str]:
    """Return the lines of `text`, with `visible` applied to each."""
    return [visible(line) for line in text.replace("\r\n", "\n").rstrip("\n").split("\n")]


def visible_json(text: str) -> str:
    """Return equivalent JSON, with escapes for characters in its strings that a terminal would interpret."""
    if text.isprintable():
        return text
    import json

    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class Redactor:
    """Replaces known secrets in texts and in the fields of a log line."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        """Take the secrets; the longest is replaced first, as one may contain another."""
        self._secrets = sorted(set(secrets), key=len, reverse=True)

    def known(self, text: str) -> str:
        """Return `text` without known secrets."""
        if any(secret in text for secret in self._secrets):
            from entrypoint import secret_patterns

            text = secret_patterns.mask(text, self._secrets)
        if self._secrets and any(sign in text for sign in _ENCODED):
            from entrypoint import secret_patterns

            text = secret_patterns.mask_encoded(text, self._secrets)
        return text

    def text(self, text: str) -> str:
        """Return `text` without known secrets, and without those that the words around them reveal."""
        text = self.known(text)
        if "://" in text and "@" in text:
            from entrypoint import secret_patterns

            text = secret_patterns.mask_in_urls(text)
        lowered = text.lower()
        if any(sign in lowered for sign in _SIGNS):
            from entrypoint import secret_patterns

            text = secret_patterns.mask_by_name(text)
        return text

    def value(self, value: object, redact: Callable[[str], str] | None = None) -> object:
        """Return `value` with every text in it redacted, at any depth."""
        redact = redact or self.text
        if isinstance(value, str):
            return redact(value)
        if isinstance(value, (list, tuple)):
            return [self.value(item, redact) for item in value]
        if isinstance(value, dict):
            return {name: self.value(item, redact) for name, item in value.items()}
        return value

    def mapping(self, values: Mapping[str, object]) -> dict[str, object]:
        """Return `values` with every text in them redacted."""
        return {name: self.value(value) for name, value in values.items()}


class Secrets:
    """The secrets to search for: there is one object for the process, and one for each call of `entrypoint.api`."""

    __slots__ = ("_lasting", "_passing", "known", "net")

    def __init__(self) -> None:
        """Start with none."""
        self._passing: tuple[str, ...] = ()
        self.know(())

    def know(self, secrets: Iterable[str]) -> None:
        """Set the lasting secrets, replacing the earlier ones."""
        self._lasting = frozenset(secrets)
        self._look_for(self._lasting)

    def know_for_now(self, secrets: Iterable[str]) -> None:
        """Add secrets that will be replaced by others later."""
        new = [secret for secret in secrets if secret not in self._lasting]
        if not new:
            return
        self._passing = tuple(dict.fromkeys((*self._passing, *new)))[-_MOST_PASSING:]
        self._look_for(self._lasting.union(self._passing))

    def _look_for(self, secrets: frozenset[str]) -> None:
        self.known, self.net = Redactor(secrets), Redactor(filter(_cannot_be_ours, secrets))


class _Here(_local):
    """The current thread's secrets; by default, the process's."""

    secrets = Secrets()


_here = _Here()
