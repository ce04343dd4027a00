"""Recognize variables that are nearly named as a setting. Pure.

Such a variable would be ignored without a word, and the setting have its default: with ``S3_ENDPOINT`` instead of
``S3_ENDPOINT_URL`` the recordings would go to AWS. So it is refused, in the settings file and in the environment.

The settings file is ours. The environment is shared: orchestrators and other programs put their own variables there
(``AWS_REGION``, ``S3CMD_CONFIG``, ``REDIS_PORT_6379_TCP``, ``APP_NAME``), and none of them may stop the daemon. There
only names of our families count, each word spelled as in the setting or nearly so, names with a single slip
(``REIDS_URL``), and names that other programs use for the same thing (:data:`ALSO_CALLED`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import takewhile
from types import MappingProxyType
from typing import Final
from urllib.parse import unquote

_SUFFIX: Final = "_FILE"
_LIKE_A_NAME: Final = 0.85
_LIKE_A_LONG_NAME: Final = 0.9
_LIKE_A_WORD: Final = 0.75
"""Ratios of ``difflib``: of names in the file, of names and of single words in the environment."""
_LEAST_WORDS: Final = 2
_LEAST_FIRST_WORD: Final = 5
"""Letters: ``REIDS_URL`` is ``REDIS_URL``; shorter first words (``LOG``, ``APP``) are near too many others."""
_LEAST_LAST_WORD: Final = 3
"""Letters: ``INSTANCE_IP`` is no slip of ``INSTANCE_ID``."""
_LEAST_LONG_NAME: Final = 12
"""Letters of a name that is one slip from a setting's by no accident, whatever its first word is."""
_OUR_PREFIX: Final = re.compile(r"CEF_?(TRIO|MP4)?_(?=.)")
_NUMBERED: Final = re.compile(r"_?\d+\Z")
"""``REDIS_URL_2`` is another program's second one, not a spelling of ``REDIS_URL``."""
ALSO_CALLED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "CHUNK_BYTES": "CHUNK_SIZE_BYTES",
        "CHUNKSIZE": "CHUNK_SIZE_BYTES",
        "REDIS": "REDIS_URL",
        "REDIS_ADDR": "REDIS_URL",
        "REDIS_ADDRESS": "REDIS_URL",
        "REDIS_AUTH": "REDIS_URL",
        "REDIS_CONNECTION_STRING": "REDIS_URL",
        "REDIS_CONNECTION_URL": "REDIS_URL",
        "REDIS_DSN": "REDIS_URL",
        "REDIS_ENDPOINT": "REDIS_URL",
        "REDIS_HOST": "REDIS_URL",
        "REDIS_HOSTNAME": "REDIS_URL",
        "REDIS_PASSWORD": "REDIS_URL",
        "REDIS_PREFIX": "REDIS_KEY_PREFIX",
        "REDIS_SERVER": "REDIS_URL",
        "REDIS_URI": "REDIS_URL",
        "S3_ACCESS_ID": "S3_ACCESS_KEY_ID",
        "S3_BUCKETNAME": "S3_BUCKET_NAME",
        "S3_CA_BUNDLE": "S3_CA_FILE",
        "S3_CA_CERT": "S3_CA_FILE",
        "S3_CHUNK_SIZE": "CHUNK_SIZE_BYTES",
        "S3_FORCE_PATH_STYLE": "S3_ADDRESSING",
        "S3_HOST": "S3_ENDPOINT_URL",
        "S3_HOSTNAME": "S3_ENDPOINT_URL",
        "S3_KEY": "S3_ACCESS_KEY_ID",
        "S3_KEY_ID": "S3_ACCESS_KEY_ID",
        "S3_KEY_PREFIX": "S3_KEY_TEMPLATE",
        "S3_PART_SIZE": "CHUNK_SIZE_BYTES",
        "S3_PASSWORD": "S3_SECRET_ACCESS_KEY",
        "S3_PATH_STYLE": "S3_ADDRESSING",
        "S3_PREFIX": "S3_KEY_TEMPLATE",
        "S3_SECRET": "S3_SECRET_ACCESS_KEY",
        "S3_SECRET_KEY": "S3_SECRET_ACCESS_KEY",
        "S3_SERVER": "S3_ENDPOINT_URL",
        "S3_TOKEN": "S3_SESSION_TOKEN",
        "S3_URI": "S3_ENDPOINT_URL",
        "S3_URL": "S3_ENDPOINT_URL",
        "S3_USERNAME": "S3_ACCESS_KEY_ID",
        "S3_USE_PATH_STYLE": "S3_ADDRESSING",
        "WATCHDIR": "WATCH_DIR",
        "WATCH": "WATCH_DIR",
        "WATCH_DIRECTORIES": "WATCH_DIR",
        "WATCH_DIRECTORY": "WATCH_DIR",
        "WATCH_FOLDER": "WATCH_DIR",
        "WATCH_FOLDERS": "WATCH_DIR",
        "WATCH_PATH": "WATCH_DIR",
        "WATCH_PATTERN": "WATCH_PATTERNS",
    }
)
"""Names that litestream, vector, MinIO, restic and others use, or that people guess, and the setting meant."""

Meant = Callable[[str], str | None]
"""Returns the setting that a name is nearly the name of."""


def near_misses(
    variables: Mapping[str, str | None],
    names: Collection[str],
    *,
    shared: bool = False,
    elsewhere: Collection[str] = (),
) -> Iterator[tuple[str, str]]:
    """Yield each variable that is nearly named as a setting, with that setting.

    ``names`` are the settings and the variables that name a secret's file. ``shared``: other programs have their
    variables there too (the environment). Then an empty one is unset, and one is left alone if its setting is given as
    well and has the same value, or is a URL made from it (``REDIS_URL=redis://$REDIS_HOST``), or is in ``elsewhere``.
    """
    given = {name.upper(): value or "" for name, value in variables.items()}
    meant = _of_environment(names) if shared else _of_file(names)
    for variable in variables:
        name, value = _plain(variable), variables[variable] or ""
        if variable.upper() in names or (shared and not value):
            continue
        setting = meant(name)
        if setting is None:
            continue
        in_file = setting + _SUFFIX in names and given.get(setting + _SUFFIX)
        if shared and (setting in elsewhere or in_file or _is_part(value, given.get(setting))):
            continue
        yield variable, setting


def _plain(variable: str) -> str:
    """Return a name without what containers and shells let slip in: blanks around it, hyphens and dots in it."""
    return variable.strip().upper().replace("-", "_").replace(".", "_")


def _is_part(value: str, of: str | None) -> bool:
    """Return whether a setting's value is this one, or a URL that is made from it."""
    return value == of or (of is not None and "://" in of and (value in of or value in unquote(of)))


def _of_file(names: Collection[str]) -> Meant:
    strict = _of_environment(names)

    def meant(name: str) -> str | None:
        close = difflib.get_close_matches(name, names, n=1, cutoff=_LIKE_A_NAME)
        return strict(name) or (close[0] if close else None)

    return meant


def _of_environment(names: Collection[str]) -> Meant:
    known = [(name, name.split("_")) for name in names]
    families = {words[0] for _, words in known}

    def meant(name: str) -> str | None:
        bare = _OUR_PREFIX.sub("", name, count=1) if _OUR_PREFIX.match(name) else name
        if bare in names:
            return bare
        if bare in ALSO_CALLED and ALSO_CALLED[bare] in names:
            return ALSO_CALLED[bare]
        if bare.endswith(_SUFFIX) and (secret := meant_or_same(bare.removesuffix(_SUFFIX))) is not None:
            return secret + _SUFFIX if secret + _SUFFIX in names else secret
        words = bare.split("_")
        if words[0] not in families:
            return next((known_name for known_name in names if _is_slip_of(bare, known_name)), None)
        if len(words) < _LEAST_WORDS or _NUMBERED.sub("", bare) in names:
            return None
        begun = [known_name for known_name, known_words in known if known_words[:-1] == words]
        alike = [known_name for known_name, known_words in known if _are_alike(words, known_words)]
        return next(iter(begun or difflib.get_close_matches(bare, alike, n=1, cutoff=0)), None)

    def meant_or_same(name: str) -> str | None:
        return name if name in names else meant(name)

    return meant


def _are_alike(words: list[str], known: list[str]) -> bool:
    """Return whether both have the same first word, and the others are spelled nearly alike."""
    if words[0] != known[0]:
        return False
    name, known_name = "_".join(words), "_".join(known)
    last, known_last = words[-1], known[-1]
    are_short = len(known_name) < _LEAST_LONG_NAME and len(last) == len(known_last) < _LEAST_LAST_WORD
    if are_short and sorted(last) != sorted(known_last):
        return False
    if difflib.SequenceMatcher(None, name, known_name).ratio() >= _LIKE_A_LONG_NAME or _is_slip_of(name, known_name):
        return True
    return len(words) == len(known) and all(map(_is_spelled_like, words, known))


def _is_slip_of(name: str, known: str) -> bool:
    """Return whether a name is a setting's but for one slip, wherever it is.

    Of a short one the first word is long, and begins with the same letter: ``PATCH_DIR`` is no ``WATCH_DIR``.
    """
    if len(known) < _LEAST_LONG_NAME and (
        name[:1] != known[:1] or known.find("_") < _LEAST_FIRST_WORD or name.count("_") != known.count("_")
    ):
        return False
    return _is_one_slip(name, known)


def _is_one_slip(word: str, known: str) -> bool:
    """Return whether one letter is missing, too many, another one, or has changed places with the next."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(word, known, strict=False)))
    rest, known_rest = word[same:], known[same:]
    return (
        rest[1:] == known_rest
        or rest == known_rest[1:]
        or rest[1:] == known_rest[1:]
        or (rest[1::-1] == known_rest[:2] and rest[2:] == known_rest[2:])
    )


def _is_spelled_like(word: str, known: str) -> bool:
    if word == known or sorted(word) == sorted(known):
        return True
    return difflib.SequenceMatcher(None, word, known).ratio() >= _LIKE_A_WORD
