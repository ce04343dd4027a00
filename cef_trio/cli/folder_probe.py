"""Facts as another user sees them: ``python -m cef_trio.cli.folder_probe QUESTION ASKED UID GID…``.

``doctor``, run by root, starts it for the user of the installed service, to ask about the watch folder and about what
else the settings name (``probes.py``: ``folder_facts``, ``access_facts``). It becomes that user only after it has been
loaded, since that user may not be able to read this program. The first group is the primary one.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from cef_trio.cli.probes import QUESTIONS

if __name__ == "__main__":
    question, asked, user, *groups = sys.argv[1:]
    os.setgroups([int(group) for group in groups])
    os.setgid(int(groups[0]))
    os.setuid(int(user))
    json.dump(asdict(QUESTIONS[question](*json.loads(asked))), sys.stdout)
