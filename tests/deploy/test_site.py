"""The hooks of the site (docs/site.py): links and pictures lead somewhere there too; CI builds it strict."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parents[2]
SOURCE = "https://source.example/"


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("page", "written", "shown"),
    [
        ("index.md", "[x](docs/operations.md#the-fleet)", "[x](operations.md#the-fleet)"),
        ("index.md", "[x](SECURITY.md)", "[x](security.md)"),
        ("index.md", "[x](example.env)", f"[x]({SOURCE}blob/main/example.env)"),
        ("index.md", '<img src="docs/pictures/a.png">', '<img src="pictures/a.png">'),
        ("operations.md", "[x](../SECURITY.md#redis)", "[x](security.md#redis)"),
        ("operations.md", "[x](../deploy/compose.yaml)", f"[x]({SOURCE}blob/main/deploy/compose.yaml)"),
        ("operations.md", "[x](scale.md) [y](#here) [z](https://example.com)", None),
    ],
)
def test_a_link_leads_to_the_sites_page_or_to_the_source(
    site: ModuleType, page: str, written: str, shown: str | None
) -> None:
    given = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    config = SimpleNamespace(repo_url=SOURCE)
    assert site.on_page_markdown(written, page=given, config=config, files=None) == (shown or written)


def test_anchors_are_githubs(site: ModuleType) -> None:
    assert site.github_slug("… Redis has lost everything", "-") == "-redis-has-lost-everything"
