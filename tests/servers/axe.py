"""axe-core, which checks rules of accessibility (https://github.com/dequelabs/axe-core); ``.ci/test`` downloads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from servers.chromium import Tab

_CACHE = Path(os.environ.get("CEF_TRIO_CACHE") or Path.home() / ".cache" / "cef-trio")
SCRIPT = next(iter(sorted(_CACHE.glob("axe-core-*/axe.min.js"))), None)
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


async def violations(tab: Tab) -> list[str]:
    """What breaks a rule in the page as it is now: rule, why, and where."""
    assert SCRIPT is not None
    if not await tab.evaluate("'axe' in window"):
        await tab.evaluate(SCRIPT.read_text() + ";0")
    found: list[dict[str, Any]] = await tab.evaluate(
        f"axe.run(document, {{runOnly: {_RULES}}}).then((result) => result.violations)"
    )
    return [f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes']]}" for one in found]
