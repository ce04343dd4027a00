"""Settings: their model, their values, secret files, and the options of objects.

Everything here is pure or reads local files; nothing connects anywhere. Promise: a wrong setting is refused at the
start with one line that names the variable, what is wrong and what would be right.

Open `model.py` for a setting's name, default, check or text; `values.py` for how sizes, durations and URLs are written;
`after_upload.py` for `AFTER_UPLOAD` and `MIN_FREE_SPACE`; `upload_rate.py` for `MAX_UPLOAD_RATE`; `watch_exclude.py`
for `WATCH_EXCLUDE`; `secret_files.py` for `<NAME>_FILE`; `misspelt.py` for names that are nearly a setting's;
`sources.py` for where a value comes from; `meanings.py` for how a setting's text is read, `reference.py` for the
generated pages; `object_options.py` for tags, storage class, ACL, encryption and content type. Settings and secrets are
read at the start; which of them are read again, and when, is in `daemon/reload.py` (SIGHUP), `s3/credentials.py` and
`checkpoint/redis/store.py` (refused credentials).
"""

from cef_trio.settings.after_upload import (
    KEEP_RECORDING,
    MOST_WANTED_PERCENT,
    AfterUploadAction,
    AfterUploadRule,
    MinFreeSpace,
)
from cef_trio.settings.model import (
    STAND_INS,
    AppEnvironment,
    Settings,
    SettingsError,
    check_folders,
    load_settings,
    read_settings,
    secret_values,
    split_watch_dir,
    unfit_rate,
    without_secrets,
    world_readable_secrets,
)
from cef_trio.settings.object_options import DEFAULT_CONTENT_TYPE, ObjectOptions
from cef_trio.settings.sources import GivenSetting, given_settings
from cef_trio.settings.upload_rate import RateTimetable, UploadRate, rate_at
from cef_trio.settings.values import is_owner_name, size_in_bytes
from cef_trio.settings.watch_exclude import DEFAULT_EXCLUDE, Exclusion

__all__ = [
    "DEFAULT_CONTENT_TYPE",
    "DEFAULT_EXCLUDE",
    "KEEP_RECORDING",
    "MOST_WANTED_PERCENT",
    "STAND_INS",
    "AfterUploadAction",
    "AfterUploadRule",
    "AppEnvironment",
    "Exclusion",
    "GivenSetting",
    "MinFreeSpace",
    "ObjectOptions",
    "RateTimetable",
    "Settings",
    "SettingsError",
    "UploadRate",
    "check_folders",
    "given_settings",
    "is_owner_name",
    "load_settings",
    "rate_at",
    "read_settings",
    "secret_values",
    "size_in_bytes",
    "split_watch_dir",
    "unfit_rate",
    "without_secrets",
    "world_readable_secrets",
]
