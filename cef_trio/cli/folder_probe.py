"""The facts about the watch folder as another user sees them: ``python -m cef_trio.cli.folder_probe ASKED UID GID…``.

``doctor``, run by root, starts it for the user of the installed service (``probes.py``: ``folder_facts``). It
becomes that user only after it has been loaded, since that user may not be able to read this program. The first group
is the primary one.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from cef_trio.cli.probes import folder_facts_now

if __name__ == "__main__":
    asked, user, *groups = sys.argv[1:]
    os.setgroups([int(group) for group in groups])
    os.setgid(int(groups[0]))
    os.setuid(int(user))
    json.dump(asdict(folder_facts_now(*json.loads(asked))), sys.stdout)
