"""Keep passwords out of every output: logs, error texts, the ledger, the application's environment.

A text is born ours or foreign. Foreign is what the server, libpq, a child program, the command line, a variable, a row
or a migration file says: it is searched for secrets where it comes in, by `foreign`. Ours (sentences, numbers, checked
file names) never is: a hole in a sentence that everybody knows would tell the password
(docs/decisions/0028-foreign-texts-are-searched-where-they-come-in.md).

Three sources are known to carry secrets. The address that was configured: its password is a secret wherever it
turns up, raw or percent-decoded. libpq's complaints about an address that it cannot parse: they quote the
piece that surprised it, which in a badly escaped URL is a piece of the password, so everything between
quotation marks goes. And SQL and addresses in foreign texts, with passwords of their own.

Regular expressions (`secret_patterns`) are imported where a text may have something to hide: most have not, and `re`
takes 7 ms of a start.
"""

from __future__ import annotations

from _thread import _local

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MASK = "***"

# From this length on a secret of small and capital letters and digits is none of our words.
_LONG = 12
_VERY_LONG = 24
# Tokens that expire: more of them are not in use at once, nor in anybody's text.
_MOST_PASSING = 64
# White space that does as it looks.
_HARMLESS = "\t\u00a0\u2002\u2003\u2009\u202f\u3000"

# One of these is in every text in which a secret is spelled as URLs, strings of programs, HTML or SQL spell it.
_ENCODED = ("%", "\\", "&", "''")
# One of these is in every text in which `secret_patterns` finds something by its name.
_SIGNS = ("passw", "passphrase", "pwd", "crypt", "hmac", "pgp_")


def secrets_of(address: str) -> frozenset[str]:
    """Return every form in which the password of a URL or conninfo string could turn up in a text."""
    _, is_url, rest = address.partition("://")
    lowered = address.lower()
    by_keyword = "password" in lowered or "passwd" in lowered or "pwd" in lowered
    found: set[str] = set()
    if is_url or address.startswith("jdbc:"):
        if by_keyword or any("%" in part.partition("=")[0] for part in address.partition("?")[2].split("&")):
            from entrypoint import secret_patterns

            found.update(secret_patterns.in_query(address))
        # To the last @: where the password has an @ of its own, that is too much, which is the safe side.
        userinfo, _, _ = rest.rpartition("@")
        found.add(userinfo.partition(":")[2])
        # ... and what libpq takes for the password, which ends at the first @.
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
    """Tell whether this may be a URL with a password that does not begin with postgresql://, and is no image's name."""
    user, colon, rest = address.partition(":")
    if "@sha256:" in rest:
        return False
    return bool(colon) and "@" in rest and not any(one in "/@=" or one.isspace() for one in user)


def mask_quoted(text: str) -> str:
    """Replace all from the first quotation mark to the last, for texts that quote pieces of an address."""
    first, last = text.find('"'), text.rfind('"')
    return text if first == last else f'{text[:first]}"{MASK}"{text[last + 1 :]}'


def mask_values(text: str) -> str:
    """Replace what a detail of the server's quotes, and the values of a row, which it has in parentheses."""
    text = mask_quoted(text)
    first, last = text.find("("), text.rfind(")")
    return f"{text[:first]}({MASK}{text[last:]}" if 0 <= first < last else text


def know(secrets: Iterable[str]) -> None:
    """Remember what `foreign` is to look for from now on."""
    _here.secrets.know(secrets)


def know_for_now(secrets: Iterable[str]) -> None:
    """Remember secrets that others follow, beside those that last; the earliest of many are forgotten."""
    _here.secrets.know_for_now(secrets)


def secrets_here() -> Secrets:
    """Return the secrets that this thread's texts are searched for."""
    return _here.secrets


def search_for(secrets: Secrets) -> None:
    """Search this thread's texts for these secrets, and not for the process's."""
    _here.secrets = secrets


def foreign(text: str) -> str:
    """Return a `text` that is not ours without secrets in it. For whatever is shown or stored, once, as it comes in."""
    return _here.secrets.known.text(text)


def foreign_report(text: str, filename: str) -> str:
    """Return what the ledger says of a migration that failed like `foreign`; what `report.render` writes is ours."""
    if foreign(text) == text:
        return text
    from entrypoint import secret_patterns

    pieces = secret_patterns.pieces_of_report(text, filename)
    return "".join(piece if index % 2 else foreign(piece) for index, piece in enumerate(pieces))


def named(name: str, beside: str = "") -> str:
    """Return a configured name as it is if it is a plain word, and else like `foreign`, or nothing of it.

    A plain word is no address with a password in it, and with a hole `user: ***gres` would tell the password. It is
    made of letters, digits, `_`, `-`, `.` and the characters `beside` these. What may be a piece of an address that
    was read in another way than its author meant is not shown.
    """
    if "://" in name or "=" in name or "@" in name.partition(":")[2] or not name.isprintable():
        return MASK
    letters = name
    for one in f"_-.{beside}":
        letters = letters.replace(one, "")
    return name if not letters or letters.isalnum() else _here.secrets.known.text(name)


def foreign_values(values: Mapping[str, object]) -> dict[str, object]:
    """Return `values` with every text in them as `foreign` returns it."""
    return _here.secrets.known.mapping(values)


def without_addresses(text: str) -> str:
    """Return a `text` without passwords that the words around them betray: where a known one may be a part of ours."""
    return Redactor().text(text)


def catch(text: str) -> str:
    """Return `text` without those secrets that can be nothing else: a net below, should a foreign text slip by."""
    return _here.secrets.net.known(text)


def catch_values(values: Mapping[str, object]) -> dict[str, object]:
    """Return `values` with every text in them as `catch` returns it."""
    net = _here.secrets.net
    return {name: net.value(value, net.known) for name, value in values.items()}


def _cannot_be_ours(secret: str) -> bool:
    """Tell whether no sentence, number, date or file name of ours could have `secret` in it, as with generated ones."""
    small, capital, digit = (
        any(first <= character <= last for character in secret) for first, last in ("az", "AZ", "09")
    )
    if any(character.isspace() for character in secret):
        return False
    # The second kind are tokens in hexadecimal: file names of ours have words between their underscores.
    return digit and small and (len(secret) >= _LONG if capital else len(secret) >= _VERY_LONG and "_" not in secret)


def visible(text: str) -> str:
    """Return `text` on one line; what a terminal would obey or hide is shown as an escape, as Python writes it."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in _HARMLESS else _escaped(character) for character in text
    )


def visible_lines(text: str) -> list[str]:
    """Return the lines of `text`, each as `visible` returns it."""
    return [visible(line) for line in text.replace("\r\n", "\n").rstrip("\n").split("\n")]


def visible_json(text: str) -> str:
    """Return JSON that says the same, with the characters in its strings that a terminal would obey as escapes."""
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
        """Return `text` without a known secret in it."""
        if any(secret in text for secret in self._secrets):
            from entrypoint import secret_patterns

            text = secret_patterns.mask(text, self._secrets)
        if self._secrets and any(sign in text for sign in _ENCODED):
            from entrypoint import secret_patterns

            text = secret_patterns.mask_encoded(text, self._secrets)
        return text

    def text(self, text: str) -> str:
        """Return `text` without a known secret in it, nor one that the words around it betray."""
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
        """Return `value` with every text in it redacted, however deep."""
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
    """What texts are searched for: one of these for the process, and one for each call of `entrypoint.api`."""

    __slots__ = ("_lasting", "_passing", "known", "net")

    def __init__(self) -> None:
        """Begin with none."""
        self._passing: tuple[str, ...] = ()
        self.know(())

    def know(self, secrets: Iterable[str]) -> None:
        """Remember these, and forget all others."""
        self._lasting = frozenset(secrets)
        self._look_for(self._lasting)

    def know_for_now(self, secrets: Iterable[str]) -> None:
        """Remember these beside those that last."""
        new = [secret for secret in secrets if secret not in self._lasting]
        if not new:
            return
        self._passing = tuple(dict.fromkeys((*self._passing, *new)))[-_MOST_PASSING:]
        self._look_for(self._lasting.union(self._passing))

    def _look_for(self, secrets: frozenset[str]) -> None:
        self.known, self.net = Redactor(secrets), Redactor(filter(_cannot_be_ours, secrets))


class _Here(_local):
    """What the thread that asks has of its own; without that, it is the process's."""

    secrets = Secrets()


_here = _Here()
