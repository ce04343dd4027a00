"""Hooks of mkdocs: the pages of the repository's root are pages of the site, and links to source files lead there.

The pages are written for the repository, where ``../SECURITY.md`` and ``../deploy/compose.yaml`` are files beside the
folder ``docs``. On the site the former is a page, the latter is at the source's address.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""A file of the repository's root, and its page on the site."""
_PICTURE = re.compile(r'(\b(?:src|srcset)=")docs/')
"""A picture in HTML, on a page of the root."""
_LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def github_slug(heading: str, separator: str) -> str:
    """Return a heading's anchor as GitHub makes it, since the pages' links are written for that."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", separator)


def on_config(config: Any) -> Any:
    """Use GitHub's anchors."""
    config.mdx_configs["toc"] = {"slugify": github_slug, "permalink": True}
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the repository's root."""
    root = Path(config.docs_dir).parent
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(root / name)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Change the links of a page from the repository's places to the site's."""
    names = {page: name for name, page in ROOT_PAGES.items()}
    source = names.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def place(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[1]))
        anchor = found[2] or ""
        if path in ROOT_PAGES:
            return ROOT_PAGES[path] + anchor
        if path.startswith("docs/"):
            return path.removeprefix("docs/") + anchor
        return f"{config.repo_url}blob/main/{path}{anchor}"

    return _PICTURE.sub(r"\1", _LINK.sub(place, markdown))
