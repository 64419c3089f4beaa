"""Makes the pictures for docs/commands/pictures.md: each command as a terminal shows it. Run by `make screenshots`.

It uses a real server, the real program, and real terminals with 60 and 120 columns. A picture is light or dark,
depending on the reader's color scheme.
"""

# ruff: noqa: T201 - a program, which prints

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from demo.postgres import Server
from demo.recording import pieces
from kit.processes import until
from kit.screen import Terminal, painted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images" / "commands"
WIDTHS = (60, 120)
# In pixels, for 13 px of a monospaced font.
_WIDTH, _HEIGHT, _BASELINE, _MARGIN = 7.8, 18, 13, 14
# By ANSI number: red, green, yellow, blue, magenta, cyan; on white, and on nearly black.
_LIGHT = ("#cf222e", "#116329", "#7d4e00", "#0550ae", "#8250df", "#1b7c83")
_DARK = ("#f85149", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf")
_MOST_LINES = 60

FILES = {
    "001_customers.sql": "CREATE TABLE customers (id bigint PRIMARY KEY, email text);\n",
    "002_orders.sql": "CREATE TABLE orders (id bigint PRIMARY KEY, customer bigint REFERENCES customers);\n",
    "003_order_states.sql": "ALTER TABLE orders ADD COLUMN state text NOT NULL DEFAULT 'new';\n",
}
MORE = {
    "004_order_index.sql": "CREATE INDEX CONCURRENTLY orders_customer_idx ON orders (customer);\n",
    "005_drop_email.sql": "ALTER TABLE customers DROP COLUMN email;\n",
}
GOOSE = {"20260101_a.sql": "-- +goose Up\nCREATE TABLE invoices (id bigint);\n-- +goose Down\nDROP TABLE invoices;\n"}


class Shop:
    """A database `shop`, and a directory with its migrations."""

    def __init__(self, server: Server, folder: Path) -> None:
        """Create them, with nothing applied."""
        self.server = server
        # Also affects every migrate, so only the picture about backups sets it.
        self.backups = False
        self.folder = folder
        (folder / "migrations" / "rollback").mkdir(parents=True)
        (folder / "migrations" / "rollback" / "003_order_states.sql").write_text(
            "ALTER TABLE orders DROP COLUMN state;\n"
        )
        self.write(FILES)
        with server.connect() as connection:
            connection.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
            connection.execute("CREATE DATABASE shop OWNER shop_owner")

    def write(self, files: dict[str, str], into: str = "migrations") -> None:
        (self.folder / into).mkdir(exist_ok=True)
        for name, text in files.items():
            (self.folder / into / name).write_text(text)

    def environment(self) -> dict[str, str]:
        address = f"host=db hostaddr=127.0.0.1 port={self.server.port} dbname=shop user=shop_owner"
        return {
            "PATH": f"{Path(sys.executable).parent}:{self.server.installation.bin}:{os.environ['PATH']}",
            "DATABASE_URL": address,
            "MIGRATION_BACKUP_DIR": str(self.folder) if self.backups else "",
            "APP_VERSION": "1.4.0",
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
        }

    def quietly(self, *command: str) -> None:
        """Run the program without showing its output; it may fail."""
        subprocess.run(
            ["entrypoint", *command], cwd=self.folder, env=self.environment(), check=False, capture_output=True
        )

    def on_terminal(self, words: tuple[str, ...], columns: int) -> list[str]:
        """Return a terminal's screen after a command, in colors."""
        with (
            Terminal(columns=columns, lines=_MOST_LINES) as terminal,
            subprocess.Popen(
                ["entrypoint", *words],
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=terminal.fd,
                stderr=terminal.fd,
            ) as process,
        ):
            if words[0] == "serve":
                until(lambda: "listening" in terminal.raw, 60, "the service")
                process.terminate()
            process.wait(60)
        text = terminal.raw.replace(f"db:{self.server.port}", "db:5432").replace(str(self.folder), "/backups")
        return painted(text, columns)


def nothing(_shop: Shop) -> None:
    """Nothing is applied yet."""


def applied(shop: Shop) -> None:
    shop.quietly("migrate")


def pending(shop: Shop) -> None:
    applied(shop)
    shop.write(MORE)


def broken(shop: Shop) -> None:
    """One file has failed, one has changed since it was applied, and one is missing."""
    applied(shop)
    shop.write(
        {"002_orders.sql": FILES["002_orders.sql"] + "-- changed\n", "004_bad.sql": "SELECT no_such FROM orders;\n"}
    )
    (shop.folder / "migrations" / "001_customers.sql").unlink()
    shop.quietly("migrate")


def with_backups(shop: Shop) -> None:
    applied(shop)
    shop.backups = True


def bad_file(shop: Shop) -> None:
    shop.write({**MORE, "006_bad.sql": "SELEC 2;\n"})


def goose(shop: Shop) -> None:
    shop.write(GOOSE, "db")


def adoptable(shop: Shop) -> None:
    goose(shop)
    shop.quietly("import", "--from", "goose", "db", "--into", "adopted")
    with shop.server.connect("shop") as connection:
        connection.execute(
            "CREATE TABLE goose_db_version (id serial, version_id bigint, is_applied boolean,"
            " tstamp timestamp DEFAULT now());"
            "INSERT INTO goose_db_version (version_id, is_applied) VALUES (0, true), (20260101, true);"
            "ALTER TABLE goose_db_version OWNER TO shop_owner"
        )


class Picture(NamedTuple):
    """A command, and the state of the shop when it runs."""

    command: str
    before: Callable[[Shop], None] = applied


PICTURES = {
    "run": Picture("run -- echo The application starts", nothing),
    "migrate": Picture("migrate", nothing),
    "migrate-dry-run": Picture("migrate --dry-run", pending),
    "migrate-rehearse": Picture("migrate --rehearse", pending),
    "status": Picture("status", broken),
    "version": Picture("version"),
    "wait": Picture("wait --for schema"),
    "check": Picture("check", bad_file),
    "new": Picture("new Add users table --rollback"),
    "import": Picture("import --from goose db --into imported", goose),
    "adopt": Picture("adopt --from goose --dry-run", adoptable),
    "backup": Picture("backup", with_backups),
    "rollback": Picture("rollback --to 2 --yes"),
    "baseline": Picture("baseline 2 --yes", nothing),
    "repair": Picture("repair --yes", broken),
    "unlock": Picture("unlock"),
    "serve": Picture("serve"),
    "help": Picture("help"),
    "completion": Picture("completion --help"),
}


def picture(command: str, lines: list[str], columns: int) -> str:
    """Return a screen as SVG. Pure."""
    lines = [f"$ {command}", *lines]
    width = round(columns * _WIDTH + 2 * _MARGIN)
    height = len(lines) * _HEIGHT + 2 * _MARGIN
    rows = "".join(
        f'<text x="{_MARGIN}" y="{_MARGIN + number * _HEIGHT + _BASELINE}">{_spans(line, columns)}</text>\n'
        for number, line in enumerate(lines)
    )
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">
<title>{escape(command)}, on a terminal of {columns} columns</title>
<style>
text {{ font: 13px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #1f2328;
  white-space: pre }}
rect {{ fill: #f6f8fa; stroke: #d1d9e0 }}
.b {{ font-weight: bold }} .d {{ opacity: .65 }}
{_colours(_LIGHT)}
@media (prefers-color-scheme: dark) {{
text {{ fill: #c9d1d9 }} rect {{ fill: #0d1117; stroke: #30363d }}
{_colours(_DARK)}
}}
</style>
<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>
{rows}</svg>
"""


def _colours(colours: tuple[str, ...]) -> str:
    return " ".join(f".c{number} {{ fill: {colour} }}" for number, colour in enumerate(colours, 1))


def _spans(line: str, columns: int) -> str:
    text = ""
    for piece, style in pieces(line, columns):
        number = style.color.number if style.color else None
        classes = [f"c{number}"] if number in range(1, 7) else []
        classes += ["b"] if style.bold else []
        classes += ["d"] if style.dim else []
        text += f'<tspan class="{" ".join(classes)}">{escape(piece)}</tspan>' if classes else escape(piece)
    return text


@contextmanager
def shop(server: Server) -> Iterator[Shop]:
    """Open a new shop, and remove it afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Shop(server, Path(folder))


def main(names: list[str]) -> None:
    """Write the pictures with these names, or all."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with Server() as server:
        with server.connect() as connection:
            connection.execute("CREATE ROLE shop_owner LOGIN")
        for name in names or PICTURES:
            wanted = PICTURES[name]
            for columns in WIDTHS:
                with shop(server) as one:
                    wanted.before(one)
                    lines = one.on_terminal(tuple(wanted.command.split()), columns)
                path = IMAGES / f"{name}-{columns}.svg"
                path.write_text(picture(f"entrypoint {wanted.command}", lines, columns))
                print(f"{path.relative_to(ROOT)}: {len(lines)} lines, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
