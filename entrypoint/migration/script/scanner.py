"""Splits a script into statements by PostgreSQL's lexical rules, without a parser.

The rules are those of chapter 4.1 "Lexical Structure" of PostgreSQL's documentation and of `src/backend/parser/scan.l`.
A statement ends where psql ends it (`src/fe_utils/psqlscan.l`). The scanner assumes that `standard_conforming_strings`
is on, the default since version 9.1; module `strings` converts texts for which it is off.

One regular expression skips everything that cannot end a statement, in long runs. Python code handles only the rest:
semicolons, deep parentheses, comments, dollar quotes, strings with escapes. Every quantifier is possessive, so the
expression never backtracks, and the time is linear in the length of the text.
"""

from __future__ import annotations

import re
from itertools import pairwise

from entrypoint.counts import count
from entrypoint.migration.script import psql
from entrypoint.records import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from entrypoint.migration.script.psql import PsqlCommand

# Enough for the longest beginning that matters, which has 19:
# ALTER TABLE IF EXISTS ONLY a.b.c * DETACH PARTITION a.b.c CONCURRENTLY
WORD_LIMIT = 24

ROW_STATEMENTS = {(word,) for word in ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES", "WITH")}
"""Statements that only read or write rows. Only their first word is kept: they can be many, and nothing needs more."""

_SPACE = " \t\n\r\f\v"
_STARTS = "_'\"$/-"  # may begin a longer token, as letters and digits may
_STOPS = _STARTS + ";()\\"

_ASCII = [chr(code) for code in range(128)]


def _ascii(keep: Callable[[str], bool]) -> str:
    """Return the ASCII characters that pass a test, escaped for use inside a set of a regular expression."""
    return re.escape("".join(filter(keep, _ASCII)))


# Every character beyond ASCII is part of an identifier, even a no-break space (scan.l, {ident_start}). The sets list
# the ASCII characters that they exclude, because `re` takes milliseconds to compile a set that spans Unicode.
_LETTER = f"[^{_ascii(lambda c: not c.isalpha() and c != '_')}]"
_LETTER_OR_DIGIT = f"[^{_ascii(lambda c: not c.isalnum() and c != '_')}]"
_IDENTIFIER = rf"{_LETTER}[^{_ascii(lambda c: not c.isalnum() and c not in '_$')}]*+"
# `(?!)` never matches. It ends each group that is repeated possessively: before Python 3.11.5 (gh-106052) such a group
# kept what its last alternative had consumed before it failed.
_PLAIN_STRING = r"'(?:[^']++|''|(?!))*+'"
_QUOTED_NAME = r'"(?:[^"]++|""|(?!))*+"'
# E'…' is not included: only there does a backslash escape a quote. The prefixes B, X, N and U& are read as an
# identifier before a string, which ends at the same place.
_PIECE = (
    rf"[{_ascii(lambda c: not c.isalpha() and c not in _STOPS)}]++"
    rf"|(?![eE]'){_IDENTIFIER}"
    rf"|{_PLAIN_STRING}"
    rf"|{_QUOTED_NAME}"
    r"|-(?!-)"
    r"|/(?!\*)"
    r"|\$[0-9]++"
)
_GROUP = rf"\((?:{_PIECE}|\((?:{_PIECE}|\((?:{_PIECE}|(?!))*+\)|(?!))*+\)|(?!))*+\)"
_RUN = re.compile(rf"(?:{_PIECE}|{_GROUP}|(?!))*+")
_ONE_PIECE = re.compile(rf"(?:{_PIECE}|(?!))?+")
_WORD = re.compile(rf"(?![eE]'){_IDENTIFIER}")
# Nearly every token, after white space: an unquoted word, a number, or punctuation that cannot begin a longer token.
_EASY_TOKEN = re.compile(
    rf"[{_SPACE}]*+(?:({_WORD.pattern})"
    rf"|([0-9][0-9.]*+|[{_ascii(lambda c: not c.isalnum() and c not in _SPACE + _STARTS)}]))"
)
_NUMBER = re.compile(r"[0-9][0-9.]*+|\$[0-9]++")
_STRING = re.compile(_PLAIN_STRING)
_QUOTED_IDENTIFIER = re.compile(_QUOTED_NAME)
_LINE = re.compile(r"[^\n\r]*+")
_LINE_COMMENT = re.compile(r"--[^\n\r]*+")
_WHITE = re.compile(rf"[{_SPACE}]*+")
_BLANK = re.compile(rf"(?:[{_SPACE}]++|--[^\n\r]*+|(?!))*+")
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_DOLLAR_QUOTE = re.compile(rf"\$(?:{_LETTER}{_LETTER_OR_DIGIT}*+|(?!))?+\$")
_ESCAPE_STRING = re.compile(r"[eE]'(?:[^'\\]++|\\.|''|(?!))*+'", re.DOTALL)
# Strings separated only by a line break are one string, of the first one's kind (scan.l, {quotecontinue}).
_CONTINUED = re.compile(r"(?:[ \t\f\v]++|--[^\n\r]*+|(?!))*+[\n\r](?:[ \t\n\r\f\v]++|--[^\n\r]*+[\n\r]|(?!))*+(?=')")
_CONTINUATION = re.compile(r"'(?:[^'\\]++|\\.|''|(?!))*+'", re.DOTALL)
# Text that contains no string, for when strings have escapes. B'…' and X'…', which never have, may not begin in it.
_BETWEEN_STRINGS = re.compile(
    rf"(?:[{_ascii(lambda c: not c.isalpha() and c not in _STARTS + chr(92))}]++"
    rf"|(?![eEbBxX]'){_IDENTIFIER}|{_QUOTED_NAME}"
    r"|-(?!-)|/(?!\*)|\$[0-9]++|(?!))*+"
)
_BIT_STRING = re.compile(rf"[bBxX]{_PLAIN_STRING}(?:{_CONTINUED.pattern}{_PLAIN_STRING}|(?!))*+")
_ROUTINE = re.compile(r"CREATE (OR REPLACE )?(FUNCTION|PROCEDURE)\b")
_COPY_END = re.compile(r"^\\\.[ \t]*+\r?$", re.MULTILINE)
_DIRECTIVE = re.compile(r"--[ \t]*+entrypoint[ \t]*+:([^\n\r]*+)")
_NEAR_DIRECTIVE = re.compile(
    r"(?:--|/\*)[-*!@#\s]*+(?i:pg[-_ ]?)?((?i:entry point)|[^\W\d_][\w-]{7,11})(?![\w-])"
    r"[ \t]*+[:=;\uFF1A]?+([^\n\r*]*+)"
)
_NAME = "entrypoint"
# How many characters of a comment to search for the name.
_NEAR = 1000


class Statement(NamedTuple):
    """A statement: its place, and its first tokens.

    `words` has at most `WORD_LIMIT` tokens: unquoted words, and strings of up to seven characters, in upper case;
    numbers as they are; and placeholders for the rest: `"` for a quoted identifier, `'` for a longer string, `$` for a
    dollar-quoted one, the character itself for punctuation. For statements that only read or write rows, `words` has
    only the first word.
    """

    start: int
    end: int
    line: int
    words: tuple[str, ...]


class ScriptFault(NamedTuple):
    """Something that cannot work, found before anything runs: its place, and a message that says what to do."""

    offset: int
    line: int
    message: str


class Directive(NamedTuple):
    """The text after `-- entrypoint:`, as written, and the place of the comment."""

    offset: int
    line: int
    text: str


class Script(NamedTuple):
    """The result of `scan`."""

    statements: tuple[Statement, ...]
    faults: tuple[ScriptFault, ...]
    commands: tuple[PsqlCommand, ...]
    """The psql commands that the file can do without."""


class UnterminatedError(ValueError):
    """A quote or a comment begins at `offset` and is never closed."""

    def __init__(self, offset: int, message: str) -> None:
        """Take the place where it begins, and the message for the file's author."""
        super().__init__(message)
        self.offset = offset
        self.message = message


def scan(text: str) -> Script:
    """Split `text` into statements, and list the faults that are visible without a parser. Never raises."""
    return _Scan(text).run()


def scan_without_commands(text: str) -> tuple[str, Script]:
    """Return `text` with spaces in place of the psql commands that it can do without, and the scan of that text."""
    script = scan(text)
    if not script.commands:
        return text, script
    text = psql.blank(text, script.commands)
    return text, scan(text)._replace(commands=script.commands)


def directives(text: str) -> tuple[Directive, ...]:
    """Return the text after each `-- entrypoint:` above the first statement."""
    return tuple(
        Directive(pos, text.count("\n", 0, pos) + 1, found[1].strip())
        for pos, _ in _comments_above(text)
        if (found := _DIRECTIVE.match(text, pos))
    )


def near_directives(text: str) -> tuple[Directive, ...]:
    """Return the comments above the first statement that begin almost like a directive, as text without the name.

    Examples: `-- Entrypoint: x`, `-- entrypiont; x`, `-- pg-entrypoint: x` and `/* entrypoint: x */`.
    """
    return tuple(
        Directive(pos, text.count("\n", 0, pos) + 1, found[2].strip())
        for pos, end in _comments_above(text)
        if not _DIRECTIVE.match(text, pos)
        and (found := _NEAR_DIRECTIVE.match(text, pos, min(end, pos + _NEAR)))
        and _is_nearly_our_name(found[1])
    )


def _is_nearly_our_name(word: str) -> bool:
    """Tell whether a word is the program's name, or differs by one letter wrong, missing or added, or two swapped."""
    word = word.lower().replace("-", "").replace("_", "").replace(" ", "")
    begins = next((at for at, (one, other) in enumerate(zip(word, _NAME, strict=False)) if one != other), len(_NAME))
    turned = zip(reversed(word), reversed(_NAME), strict=False)
    ends = next((at for at, (one, other) in enumerate(turned) if one != other), len(_NAME))
    return abs(len(word) - len(_NAME)) <= 1 and begins + ends >= len(_NAME) - 2


def has_statement(text: str) -> bool:
    """Tell whether a text contains anything but white space, comments and psql commands."""
    *_, (_, end) = ((0, 0), *_comments_above(text))
    return _end(_WHITE, text, end) < len(text)


def _comments_above(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each comment and each psql command above the first statement."""
    pos = _end(_WHITE, text, 0)
    while text.startswith(("--", "/*", "\\"), pos):
        try:
            match text[pos]:
                case "-":
                    end = _end(_LINE_COMMENT, text, pos)
                case "/":
                    end = _comment_end(text, pos)
                case _:
                    end = psql.read(text, pos, 0, first=True).end
        except UnterminatedError:  # `scan` reports it
            yield pos, len(text)
            return
        yield pos, end
        pos = _end(_WHITE, text, end)


def skip(text: str, pos: int) -> int:
    """Return the offset of the first token at or after `pos`; the text's length if there is none."""
    while True:
        pos = _end(_BLANK, text, pos)
        if not text.startswith("/*", pos):
            return pos
        pos = _comment_end(text, pos)


def words(text: str, start: int, end: int, limit: int = WORD_LIMIT) -> tuple[str, ...]:
    """Return the first `limit` tokens between two offsets, in the form of `Statement.words`."""
    found: list[str] = []
    try:
        while len(found) < limit:
            if easy := _EASY_TOKEN.match(text, start, end):
                word = easy[1] or easy[2]
                # Keywords are ASCII, and upper() would turn letters beyond ASCII into some of them.
                found.append(word.upper() if word.isascii() else word)
                start = easy.end()
            elif (token := skip(text, start)) >= end:
                break
            elif token > start:
                start = token
            else:
                start = _token_end(text, token)
                found.append(_as_word(text[token:start]))
    except UnterminatedError:  # `scan` reports it
        pass
    return tuple(found)


def tokens(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each token between two offsets. Each character of an operator is a token."""
    try:
        while (start := skip(text, start)) < end:
            stop = _token_end(text, start)
            yield start, stop
            start = stop
    except UnterminatedError:  # `scan` reports it
        pass


def line_comments(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each run of white space and line comments between the tokens of a text."""
    pos = 0
    try:
        while pos < len(text):
            stop = _end(_BLANK, text, pos)
            if stop > pos:
                yield pos, stop
                pos = stop
            elif text.startswith("/*", pos):
                pos = _comment_end(text, pos)
            else:
                run = _end(_RUN, text, pos)
                pos = run if run > pos else _token_end(text, pos)
    except UnterminatedError:  # `scan` reports it
        pass


def strings_with_escapes(text: str) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each ordinary string, with its quotes, if a backslash begins an escape in them.

    A string that is never closed ends with the text.
    """
    pos, length = 0, len(text)
    try:
        while (pos := skip(text, _end(_BETWEEN_STRINGS, text, pos))) < length:
            if text[pos] == "\\":
                pos = psql.read(text, pos, 0, first=False).end
                continue
            if text[pos] != "'":
                pos = max(_end(_BIT_STRING, text, pos), _token_end(text, pos))
                continue
            while text.startswith("'", pos):
                stop = _end(_CONTINUATION, text, pos)
                if stop == pos:
                    yield pos, length
                    return
                yield pos, stop
                pos = _end(_CONTINUED, text, stop)
    except UnterminatedError:  # `scan` reports it
        pass


def _as_word(token: str) -> str:
    """Return the placeholder for a token that is neither an unquoted word nor a number."""
    if len(token) > 1 and token[-1] in "'$":
        return token.upper() if token[0] == "'" and len(token) <= len("'false'") else token[-1]
    return token[0]


def _end(pattern: re.Pattern[str], text: str, pos: int) -> int:
    found = pattern.match(text, pos)
    return found.end() if found else pos


def _comment_end(text: str, pos: int) -> int:
    """Return the offset after the comment that begins at `pos`. Comments nest, unlike in C."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, pos):
        depth += 1 if edge[0] == "/*" else -1
        if depth == 0:
            return edge.end()
    raise UnterminatedError(pos, "this comment is never closed: end it with */ (each nested /* needs its own)")


def _token_end(text: str, pos: int) -> int:
    """Return the offset after the token that begins at `pos`. Each character of an operator is a token."""
    char = text[pos]
    if char == "'" or text.startswith(("e'", "E'"), pos):
        return _string_end(text, pos)
    if char == '"':
        stop = _end(_QUOTED_IDENTIFIER, text, pos)
        if stop == pos:
            raise UnterminatedError(pos, 'this quoted identifier is never closed: end it with "')
        return stop
    if char == "$" and (tag := _DOLLAR_QUOTE.match(text, pos)):
        stop = text.find(tag[0], tag.end())
        if stop < 0:
            raise UnterminatedError(pos, f"this dollar-quoted string is never closed: end it with {tag[0]}")
        return stop + len(tag[0])
    return max(_end(_WORD, text, pos), _end(_NUMBER, text, pos), pos + 1)


def _string_end(text: str, pos: int) -> int:
    if text[pos] == "'":
        stop = _end(_STRING, text, pos)
        if stop == pos:
            raise UnterminatedError(pos, "this string is never closed: end it with '")
        return stop
    message = "this string is never closed: end it with ' (in E'…' a backslash before a quote hides it)"
    stop = _end(_ESCAPE_STRING, text, pos)
    if stop == pos:
        raise UnterminatedError(pos, message)
    while more := _CONTINUED.match(text, stop):
        stop = _end(_CONTINUATION, text, more.end())
        if stop == more.end():
            raise UnterminatedError(pos, message)
    return stop


class Skim:
    """Looks for the end of one statement, such as an INSERT of 100 MB, without keeping its text.

    It treats each byte as a character: bytes beyond ASCII only occur in names, quotes and comments.
    """

    def __init__(self) -> None:
        """Start somewhere before the statement."""
        self._begun = False
        self._parentheses = 0
        self.ended = False
        """Whether the statement's semicolon has been found."""

    def over(self, content: bytes, *, last: bool) -> int:
        """Read on; return how many of the bytes are finished. At the statement's semicolon, it stops.

        The caller must pass the remaining bytes again, followed by more, unless these are the file's `last`. Raises
        ValueError at a psql command.
        """
        text = content.decode("latin-1")
        # Tokens that begin before the last white space are complete, unless they contain it: quotes and comments.
        limit = len(text) if last else max(map(text.rfind, _SPACE)) + 1
        pos = 0
        try:
            while pos < limit and not self.ended:
                start = skip(text, pos)
                if start >= limit:
                    return start if last else pos
                run = _RUN.match(text, start, limit)
                if run and run.end() > start:
                    self._begun, pos = True, run.end()
                elif (stop := self._token(text, start, last=last)) is None:
                    break
                else:
                    pos = stop
        except UnterminatedError:
            pass
        return pos

    def _token(self, text: str, pos: int, *, last: bool) -> int | None:
        """Return the offset after the token that stops a run; None if more text is needed to tell."""
        char = text[pos]
        if char == "\\":
            raise ValueError(char)
        if char == ";":
            self.ended = self._begun and not self._parentheses
            return pos + 1
        stop = _token_end(text, pos)
        # A string with escapes may be continued by another one.
        goes_on = stop == len(text) or (char in "eE" and skip(text, stop) == len(text))
        if goes_on and not last:
            return None
        self._begun = True
        self._parentheses = max(0, self._parentheses + (char == "(") - (char == ")"))
        return stop


class _Scan:
    """One pass over a text: the statements and faults found so far, and the open statement."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.statements: list[Statement] = []
        self.faults: list[ScriptFault] = []
        self.commands: list[PsqlCommand] = []
        self.counted = 0  # the lines before this offset are counted
        self.line = 1
        self.copy_data = True  # cleared when no end of COPY data is left in the text
        self.reset()

    def reset(self) -> None:
        """Close the open statement, if there is one."""
        self.start = -1
        self.first: tuple[str, ...] = ()  # its first word
        self.start_line = 0
        self.last = 0  # the offset after its last token, or after white space that follows
        self.parentheses = 0
        self.routine = False  # CREATE FUNCTION or PROCEDURE: it may have a body with semicolons
        self.bodies = 0  # how many BEGIN ATOMIC are open
        self.nested = False  # whether the body's statement is itself a CREATE FUNCTION or PROCEDURE
        self.before = ""  # the previous token in upper case; only tracked in routines

    def run(self) -> Script:
        text, length = self.text, len(self.text)
        if nul := text.count("\0"):
            offset = text.index("\0")
            message = f"{count(nul, 'NUL character')}: PostgreSQL text cannot contain any; save the file as UTF-8"
            self.faults.append(ScriptFault(offset, text.count("\n", 0, offset) + 1, message))
        pos = 0
        try:
            while (pos := skip(text, pos)) < length:
                char = text[pos]
                if char == ";":
                    pos = self.semicolon(pos)
                elif char == "\\":
                    pos = self.meta_command(pos)
                else:
                    if self.start < 0:
                        self.open(pos)
                    pos = self.last = self.step(pos)
        except UnterminatedError as fault:
            self.fault(fault.offset, fault.message)
            self.last = length
        if self.start >= 0:
            self.close()
        return Script(tuple(self.statements), tuple(sorted(self.faults)), tuple(self.commands))

    def open(self, pos: int) -> None:
        self.start, self.start_line = pos, self.line_at(pos)
        self.first = words(self.text, pos, len(self.text), limit=1)
        if self.first == ("CREATE",):
            self.routine = self.is_routine(pos)

    def step(self, pos: int) -> int:
        """Skip the next run of pieces, or the one token that stops a run; return the offset after it."""
        stop = _end(_ONE_PIECE if self.routine else _RUN, self.text, pos)
        if stop == pos:
            stop = _token_end(self.text, pos)
            char = self.text[pos]
            self.parentheses = max(0, self.parentheses + (char == "(") - (char == ")"))
        if self.routine:
            self.follow(self.text[pos:stop].strip(_SPACE), pos)
        return stop

    def follow(self, token: str, start: int) -> None:
        """Track the body of an SQL-standard function, from BEGIN ATOMIC to END.

        Each of its statements ends with a semicolon (gram.y, routine_body_stmt_list), and none begins with END. So an
        END where a statement could begin closes the body. Any other END belongs to a CASE, or is a name.
        """
        word = token.upper()
        if not word:
            return
        if self.parentheses == 0:
            if self.bodies and self.before in (";", "ATOMIC"):
                if word == "END":
                    self.bodies -= 1
                self.nested = self.is_routine(start)
            elif word == "ATOMIC" and self.before == "BEGIN" and (self.bodies == 0 or self.nested):
                self.bodies += 1
        self.before = word

    def is_routine(self, start: int) -> bool:
        """Tell whether a CREATE FUNCTION or CREATE PROCEDURE begins at `start`."""
        return bool(_ROUTINE.match(" ".join(words(self.text, start, len(self.text), limit=4))))

    def semicolon(self, pos: int) -> int:
        if self.start < 0:
            return pos + 1
        if self.parentheses or self.bodies:  # CREATE RULE … DO (a; b), or the body of a function
            self.last = pos + 1
            if self.parentheses == 0:
                self.before = ";"
            return pos + 1
        if self.close() and self.copy_data:
            # The data begins on the next line. Without an end mark there is no data, and SQL follows.
            mark = _COPY_END.search(self.text, _end(_LINE, self.text, pos))
            self.copy_data = mark is not None
            return mark.end() if mark else pos + 1
        return pos + 1

    def close(self) -> bool:
        """Add the open statement; return whether it is a COPY that data follows."""
        text, start, line = self.text, self.start, self.start_line
        end = start + len(text[start : self.last].rstrip(_SPACE))
        first = self.first
        self.statements.append(
            Statement(start, end, line, first if first in ROW_STATEMENTS else words(text, start, end))
        )
        self.reset()
        if first != ("COPY",):
            return False
        way = _copy_way(words(text, start, end, limit=end - start))
        if way == "FROM":
            message = (
                "COPY FROM STDIN: nothing sends it data here; use INSERT, or COPY FROM a file on the server (pg_dump "
                "--inserts writes a dump with INSERT)"
            )
            self.faults.append(ScriptFault(start, line, message))
        elif way == "TO":
            message = "COPY TO STDOUT: nothing reads its output; remove it, or COPY TO a file on the server"
            self.faults.append(ScriptFault(start, line, message))
        return way == "FROM"

    def meta_command(self, pos: int) -> int:
        """Read the psql command at a backslash outside quotes, which is never SQL; add a fault if it is needed."""
        command = psql.read(self.text, pos, self.line_at(pos), first=self.start < 0 and not self.statements)
        if not command.remedy and self.in_a_string(command.end):
            command = command._replace(remedy="write it above the statement")
        if not command.remedy:
            self.commands.append(command)
            return command.end
        self.fault(pos, f"psql command {command.shown}: the server does not understand it; {command.remedy}")
        if command.name == ";":
            return self.semicolon(pos + 1)
        if self.start >= 0 and command.sends:
            self.close()
        return command.end

    def in_a_string(self, end: int) -> bool:
        r"""Tell whether a string may continue after a command that ends at `end`, like E'a' and '\'' on two lines."""
        last = self.last
        while last > self.start >= 0 and self.text[last - 1] in _SPACE:
            last -= 1
        return self.start >= 0 and self.text[last - 1] == "'" and self.text.startswith("'", skip(self.text, end))

    def fault(self, offset: int, message: str) -> None:
        self.faults.append(ScriptFault(offset, self.line_at(offset), message))

    def line_at(self, offset: int) -> int:
        """Return the line of an offset. If asked in ascending order, all calls together read the text once."""
        if offset < self.counted:
            return self.line - self.text.count("\n", offset, self.counted)
        self.line += self.text.count("\n", self.counted, offset)
        self.counted = offset
        return self.line


def _copy_way(tokens: tuple[str, ...]) -> str:
    """Return FROM or TO if a COPY reads from the client or writes to it; otherwise an empty string.

    To the grammar, STDIN and STDOUT are the same (gram.y, copy_file_name). In parentheses there is a query, or names.
    """
    depth = 0
    for word, following in pairwise(tokens):
        depth += (word == "(") - (word == ")")
        if depth == 0 and word in ("FROM", "TO") and following in ("STDIN", "STDOUT"):
            return word
    return ""
