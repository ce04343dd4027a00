"""The wheel and the sdist: what a package index asks of them, and that equal sources give equal files."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Final

import pytest
from thoroughness import only_long

import cef_trio

ROOT: Final = Path(__file__).parents[2]
PYPROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES: Final = [
    entry.lstrip("/") for entry in PYPROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
]
RELEASED: Final = "1790000000"
"""SOURCE_DATE_EPOCH of the builds."""
pytestmark = pytest.mark.real


def built(folder: Path, *, umask: int) -> list[Path]:
    """Build both from a fresh copy of the sources; return them by name."""
    copy = folder / "source"
    copy.mkdir(parents=True)
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=skip)
        else:
            shutil.copy(ROOT / name, copy / name)
    shutil.copy(ROOT / "pyproject.toml", copy)
    shutil.copy(ROOT / ".gitignore", copy)
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder / "dist")]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": RELEASED}
    subprocess.run(command, check=True, capture_output=True, cwd=copy, env=environment, umask=umask)
    return sorted((folder / "dist").iterdir())


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return built(tmp_path_factory.mktemp("first"), umask=0o022)


@pytest.fixture(scope="module")
def wheel(distributions: list[Path]) -> Path:
    return next(path for path in distributions if path.suffix == ".whl")


@pytest.fixture(scope="module")
def sdist(distributions: list[Path]) -> Path:
    return next(path for path in distributions if path.name.endswith(".tar.gz"))


def test_two_builds_are_byte_identical(distributions: list[Path], tmp_path: Path) -> None:
    """Of copies in other folders, with other permissions."""
    again = built(tmp_path / "again", umask=0o077)
    assert [path.name for path in again] == [path.name for path in distributions]
    for first, second in zip(distributions, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name


def test_a_package_index_accepts_them(distributions: list[Path]) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, distributions)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_index_page_has_addresses_and_no_link_that_leads_nowhere(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    urls = dict(line.split(", ") for line in metadata.get_all("Project-URL", []))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    page = metadata.get_payload()
    assert isinstance(page, str)
    links = re.findall(r"\]\(([^)]+)\)", page) + re.findall(r'\bsrc(?:set)?="([^"]+)"', page)
    assert len(links) > 10
    assert [link for link in links if not re.match(r"https?://|#", link)] == []
    ours = [link for link in links if link.startswith(urls["Homepage"])]
    for link in ours:
        found = re.fullmatch(re.escape(urls["Source"]) + r"(?:blob|raw)/v([\d.]+)/([^#]+)(?:#.*)?", link)
        assert found is not None, link
        assert found[1] == cef_trio.__version__
        assert (ROOT / found[2]).exists(), link


def test_the_wheel_holds_the_package_alone_and_the_sdist_the_pages_and_tests_too(wheel: Path, sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
    version = cef_trio.__version__
    assert {name.split("/")[0] for name in files} == {
        "cef_trio",
        *(f"cef_trio-{version}.{it}" for it in ("dist-info", "data")),
    }
    assert f"cef_trio-{version}.data/data/share/man/man1/cef-trio.1" in files
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"docs/operations.md", "CHANGELOG.md", "LICENSE", "deploy/kubernetes.yaml", "tests/conftest.py"} <= names
    assert "requirements/run.lock" in names
    assert not [name for name in names if name.endswith(".pyc") or ".venv" in name or ".git/" in name]


def test_the_addresses_agree() -> None:
    """They are to be replaced at the first publication, as CONTRIBUTING.md says; nothing that runs has one."""
    text = (ROOT / "pyproject.toml").read_text()
    urls = PYPROJECT["project"]["urls"]
    assert set(re.findall(r"https://[^/\s\"']+", " ".join(urls.values()) + text.split("fancy-pypi-readme]", 1)[1])) == {
        urls["Homepage"]
    }
    site = (ROOT / "mkdocs.yml").read_text()
    assert f"site_url: {urls['Documentation']}\n" in site
    assert f"repo_url: {urls['Source']}\n" in site
    address = urls["Homepage"].encode()
    files = [path for name in SOURCES for path in (ROOT / name, *(ROOT / name).rglob("*")) if path.is_file()]
    having = {path.name for path in files if path.suffix != ".pyc" and address in path.read_bytes()}
    assert having == {"CONTRIBUTING.md", "mkdocs.yml"}, "and pyproject.toml"


@pytest.mark.slow
@only_long("it fetches libraries")
@pytest.mark.parametrize("tool", ["pipx", "uv"])
def test_the_wheel_is_installed_as_a_tool(wheel: Path, tmp_path: Path, tool: str) -> None:
    places = {
        "pipx": {"PIPX_HOME": "home", "PIPX_BIN_DIR": "bin", "PIPX_MAN_DIR": "man"},
        "uv": {"UV_TOOL_DIR": "home", "UV_TOOL_BIN_DIR": "bin", "UV_CACHE_DIR": "cache"},
    }[tool]
    environment = {**os.environ, **{name: str(tmp_path / folder) for name, folder in places.items()}}
    command = {
        "pipx": [sys.executable, "-m", "pipx", "install", "--python", sys.executable],
        "uv": [sys.executable, "-m", "uv", "tool", "install", "--python", sys.executable],
    }[tool]
    done = subprocess.run(
        [*command, f"{wheel}[local]"], check=False, capture_output=True, text=True, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stderr
    program = tmp_path / "bin" / "cef-trio"
    shown = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == f"cef-trio {cef_trio.__version__}"
