"""The pages for people name files that exist, and name every file of the daemon's rooms."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "cef_trio"
ARCHITECTURE = REPOSITORY / "docs" / "architecture.md"
PAGES = sorted(
    [
        *REPOSITORY.glob("docs/*.md"),
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    ]
)
FILES = frozenset(
    file.relative_to(REPOSITORY).as_posix()
    for folder in ("cef_trio", "tests", "benchmarks", "deploy", "docs")
    for file in (REPOSITORY / folder).rglob("*")
    if file.is_file()
)
NAMED = re.compile(r"(?<![\w./{*-])(?:[\w-]+/)*[\w-]+\.(?:py|lua)\b")


def exists(name: str) -> bool:
    return any(file == name or file.endswith(f"/{name}") for file in FILES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    assert [name for name in NAMED.findall(page.read_text()) if not exists(name)] == []


def test_every_file_that_a_module_names_exists() -> None:
    texts = {file: ast.get_docstring(ast.parse(file.read_text())) or "" for file in PACKAGE.rglob("*.py")}
    assert [(at.name, name) for at, text in texts.items() for name in NAMED.findall(text) if not exists(name)] == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target), link


def sections() -> dict[str, list[str]]:
    """The rows of each table of rooms, by the table's heading."""
    found = {}
    for part in ARCHITECTURE.read_text().split("\n### ")[1:]:
        heading, _, body = part.partition("\n")
        if heading.startswith("`"):
            found[heading] = [line for line in body.partition("\n#")[0].splitlines() if line.startswith("| `")]
    return found


def modules_in(row: str, rooms: list[str]) -> list[str]:
    """The modules of a row's first column, below the package; a name that is not there stays as it is written."""
    names = [name for name in re.findall(r"`([\w/.]+)`", row.split("|")[1]) if not name.endswith((".html", "/"))]
    folders = ["", *(f"{room}/" for room in rooms)]
    return [next((at + name for at in folders if (PACKAGE / at / name).is_file()), name) for name in names]


def named_modules() -> dict[str, bool]:
    """Every module that a table names, and whether the table calls it pure."""
    found: dict[str, bool] = {}
    for heading, rows in sections().items():
        for row in rows:
            modules = modules_in(row, re.findall(r"`(\w+)/`", heading))
            flags = row.split("|")[2].strip().split(", ")
            flags = flags if len(flags) == len(modules) else flags * len(modules)
            found |= {module: flag == "yes" for module, flag in zip(modules, flags, strict=False)}
    return found


def test_the_tables_name_every_module_of_their_rooms() -> None:
    ours = {file.relative_to(PACKAGE).as_posix() for file in PACKAGE.glob("*/**/*.py") if file.name != "__init__.py"}
    named = set(named_modules())
    assert named - ours == set()
    expected = {name for name in ours if name.count("/") == 1 and not name.startswith("s3_endpoint/")}
    assert expected - named == set()


def test_what_the_tables_call_pure_is_checked_to_be() -> None:
    source = (REPOSITORY / "tests/house/test_rooms.py").read_text()
    for module, pure in named_modules().items():
        assert not pure or f'"{module.removesuffix(".py").replace("/", ".")}"' in source, module


def test_the_map_has_a_row_for_every_room() -> None:
    text = ARCHITECTURE.read_text()
    rooms = sorted(folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists())
    assert [room for room in rooms if f"\n| `{room}/` |" not in text] == []


def test_the_import_order_is_the_contracts() -> None:
    contract = (REPOSITORY / "pyproject.toml").read_text()
    layers = re.findall(r'^    "(.+)",$', contract.partition("\nlayers = [")[2].partition("]")[0], flags=re.MULTILINE)
    assert layers
    assert "```\n" + "\n".join(layers) + "\n```" in ARCHITECTURE.read_text()


def test_the_check_above_finds_what_it_looks_for() -> None:
    assert NAMED.findall("see `s3/client.py` and `gone.py`, not `*_operations.py`") == ["s3/client.py", "gone.py"]
    assert exists("s3/client.py")
    assert not exists("gone.py")
