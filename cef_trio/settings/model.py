"""Settings from environment variables or a ``.env`` file, validated once, at the start.

Every field is a variable of the same name in capitals. ``example.env`` and ``docs/settings.md`` are made from this
class (``python -m cef_trio.settings.reference example-env|settings-md``), and a test compares them. An error is one
line with the variable, the value (never a secret) and what it takes. ``secret_files.py`` reads ``<NAME>_FILE``.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import socket
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.settings import values
from cef_trio.settings.after_upload import (
    ANY_FREE_SPACE,
    KEEP_RECORDING,
    AfterUploadAction,
    AfterUploadRule,
    MinFreeSpace,
    parse_after_upload,
    parse_min_free_space,
)
from cef_trio.settings.meanings import meanings
from cef_trio.settings.misspelt import near_misses
from cef_trio.settings.object_options import (
    AUTO_CONTENT_TYPE,
    AWS_STORAGE_CLASSES,
    CANNED_ACLS,
    ENCRYPTIONS,
    CannedAcl,
    Encryption,
    ObjectOptions,
    Tags,
    check_content_type,
    check_kms_key_id,
    check_storage_class,
    why_unfit,
)
from cef_trio.settings.secret_files import (
    SecretFiles,
    UnreadableSecret,
    WorldReadableFile,
    file_variables,
    find_world_readable,
    is_secret,
)
from cef_trio.settings.upload_rate import RateTimetable, UploadRate, all_rates, parse_upload_rate
from cef_trio.settings.watch_exclude import DEFAULT_EXCLUDE, check_exclude, excludes_everything, parse_exclude

LEAST_RATE_OF_A_PART: Final = 4096
"""Bytes per second. Slower parts would take hours and risk S3's timeout (``s3/token_bucket.py``)."""
_ZONES: Final = os.environ.get("TZDIR", "/usr/share/zoneinfo")
_TAKES: Final = {
    "bool_parsing": "takes true or false",
    "bool_type": "takes true or false",
    "int_parsing": "takes a whole number",
    "int_type": "takes a whole number",
    "float_parsing": "takes a number",
    "float_type": "takes a number",
    "finite_number": "takes a finite number",
}
"""Replacements of pydantic's messages."""


logging.getLogger("dotenv").setLevel(logging.ERROR)  # it warns of lines that _no_assignments refuses


class SettingsError(CefMp4ProcessorError):
    """Settings are missing or wrong; ``lines`` holds one line for each."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        super().__init__("\n".join(lines))


def _int_or_text(value: object) -> object:
    return value if isinstance(value, int) else str(value)


class AppEnvironment(StrEnum):
    """Audience of the logs: ``development`` for people, ``production`` for machines."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


_Addressing = Literal["auto", "path", "virtual"]
_Checksum = Literal["auto", "crc64nvme", "crc32c", "sha256", "md5"]
_PayloadSigning = Literal["auto", "signed", "unsigned"]
_LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
_MOST_DAYS: Final = 36_500
"""Of every duration: a century. What is longer does not fit into a date, a lease of Redis or the limit of a thread."""
_MOST_SECONDS: Final = _MOST_DAYS * 86_400
Seconds = Annotated[float, Field(gt=0, le=_MOST_SECONDS, allow_inf_nan=False)]
NamedPath = Annotated[Path, AfterValidator(values.named_path)]


class Settings(BaseSettings):
    """All settings of the daemon."""

    _more_watch_dirs: tuple[Path, ...] = PrivateAttr(())
    """The other folders of ``WATCH_DIR``, once they were checked (:func:`check_folders`)."""
    _watch_dir_links: Mapping[str, str] = PrivateAttr(default_factory=dict)

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    watch_dir: Annotated[NamedPath, AfterValidator(values.watch_dir)]
    """Folder to watch, including its subfolders; or several, separated by colons: /srv/a:/srv/b. A symbolic link is
    followed at the start only; that it leads elsewhere later is a fault that /readyz reports."""
    owner_name: Annotated[str, AfterValidator(values.owner_name)] = ""
    """Permanent name of the owner of the recordings, derived from the machine by default; one for a shared folder."""
    watch_patterns: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(values.patterns), AfterValidator(values.watch_patterns)
    ] = ("*.mp4",)
    """Names of recordings: comma-separated patterns with * and ?, without regard to case."""
    watch_exclude: Annotated[
        tuple[str, ...], NoDecode, BeforeValidator(parse_exclude), AfterValidator(check_exclude)
    ] = DEFAULT_EXCLUDE
    """Files and folders to leave out: patterns of names, or of paths relative to WATCH_DIR such as tmp/** and
    */incoming/*, comma-separated, without regard to case; default stands for the default ones, none for no pattern."""
    watch_link_roots: Annotated[tuple[NamedPath, ...], NoDecode, BeforeValidator(values.folders)] = ()
    """Folders into which symbolic links in WATCH_DIR are followed, as /mnt/a:/mnt/b; other links are not followed."""
    watch_min_age_seconds: Annotated[float, Field(ge=0, le=_MOST_SECONDS, allow_inf_nan=False)] = 0.0
    """How long ago a recording was first seen, or has not changed, before its upload begins; what is deleted before is
    not uploaded."""
    watch_min_size_bytes: Annotated[int, BeforeValidator(values.size_in_bytes), Field(ge=0)] = 0
    """How large a recording must be before its upload begins, such as 1MiB; one that stays smaller is skipped."""
    chunk_size_bytes: Annotated[int | Literal["auto"], BeforeValidator(values.part_size)] = 10 << 20
    """Part size, 5MiB to 5GiB, or auto: what a recording writes in 20 seconds, 10MiB to 64MiB, or in a minute, where
    that is less than 10MiB; fixed for a recording when its upload begins, and doubled every 1,000 parts. A smaller
    recording is sent whole, after its end."""
    s3_equal_parts: bool = False
    """Keep all parts of a recording equal, for stores that require it (Cloudflare R2); at most 10,000 parts then."""
    stream_timeout_seconds: Seconds = 30.0
    """A recording ends after this time without a write, where a close cannot be seen (network mounts, hung writers)."""
    close_grace_seconds: Annotated[float, Field(ge=0, le=_MOST_SECONDS, allow_inf_nan=False)] = 1.0
    """How long a closed recording must stay unchanged before it is finalized."""
    rescan_seconds: Seconds = 30.0
    """Interval of scans of the whole folder, which find what events missed."""
    stale_check_seconds: Seconds = 5.0
    """Interval of checks for idle streams, and for streams in Redis that no daemon works on."""
    file_system_timeout_seconds: Seconds = 10.0
    """How long a file system may not respond before its mount is set aside, until it responds."""
    max_concurrent_streams: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Streams that may work (read, upload, verify) at once; any number may be open."""
    max_concurrent_parts: Annotated[int, Field(ge=1, le=1_000)] = 4
    """Parts that the whole daemon uploads at once."""
    max_upload_rate: Annotated[
        UploadRate, NoDecode, BeforeValidator(parse_upload_rate), PlainSerializer(_int_or_text)
    ] = 0
    """Upload limit of the whole daemon in bytes per second, such as 10MiB; 0 is unlimited; or a timetable by local
    time, such as 08:00,2MiB 19:00,off or Mon-08:00,2MiB Sat-00:00,off. SIGHUP applies a change."""
    shutdown_grace_seconds: Seconds = 6.0
    """How long parts in flight may take to finish after the first signal."""
    shutdown_save_seconds: Seconds = 2.0
    """How long saving the states may take after that. The exit takes at most one second more than both."""

    s3_endpoint_url: Annotated[str, AfterValidator(values.endpoint_url)] | None = None
    """URL of the S3 endpoint; empty for AWS."""
    s3_access_key_id: Annotated[SecretStr, AfterValidator(values.printable_ascii)] | None = None
    """Access key; empty uses AWS's own chain (profiles, instance and container roles), with the extra "aws"."""
    s3_secret_access_key: Annotated[SecretStr, AfterValidator(values.secret_key)] | None = None
    """Secret key of S3_ACCESS_KEY_ID."""
    s3_session_token: Annotated[SecretStr, AfterValidator(values.printable_ascii)] | None = None
    """Session token of temporary credentials."""
    s3_bucket_name: Annotated[str, AfterValidator(values.bucket_name)]
    """Bucket for the recordings."""
    s3_region_name: Annotated[str, AfterValidator(values.region)] = "us-east-1"
    """Region of the bucket."""
    s3_create_bucket: bool = False
    """Create the bucket if it does not exist."""
    s3_key_template: Annotated[str, AfterValidator(values.key_template)] = "streams/{owner}/{stream_id}/{file_name}"
    """Object key: a fixed prefix, which may hold {owner}/ and {host}, then {stream_id} and any of {relative_dir}/,
    {year}, {month}, {day}, {hour}, {file_name}, {file_stem}, {file_ext}; docs/operations.md."""
    key_time_zone: Annotated[str, AfterValidator(values.time_zone)] = "UTC"
    """Time zone of {year}, {month}, {day} and {hour} in keys, such as Europe/Berlin."""
    s3_addressing: Annotated[_Addressing, values.in_any_case(*get_args(_Addressing))] = "auto"
    """Bucket in the path or in the host name; auto is the host name for AWS, otherwise the path."""
    s3_checksum: Annotated[_Checksum, values.in_any_case(*get_args(_Checksum))] = "auto"
    """Checksum of parts and small recordings; auto is CRC64NVME, or MD5 where the store does not support it."""
    s3_payload_signing: Annotated[_PayloadSigning, values.in_any_case(*get_args(_PayloadSigning))] = "auto"
    """Signing of bodies; auto leaves it out, because checksums protect them, until a store requires it."""
    s3_ca_file: NamedPath | None = None
    """PEM file of certificates to trust instead of the system's."""
    s3_proxy_url: Annotated[SecretStr, AfterValidator(values.proxy_url)] | None = None
    """HTTP proxy for all requests to S3, as http://user:password@host:port; empty connects directly, whatever
    HTTP_PROXY and HTTPS_PROXY are."""
    s3_connect_timeout_seconds: Seconds = 10.0
    """Time limit for connecting to S3."""
    s3_read_timeout_seconds: Seconds = 60.0
    """How long S3 may be silent before and within a response."""
    s3_write_timeout_seconds: Seconds = 60.0
    """How long S3 may take to accept 64 KiB, not a whole part."""
    s3_complete_timeout_seconds: Seconds = 300.0
    """How long S3 may be silent after CompleteMultipartUpload; stores that copy the parts take minutes."""
    s3_storage_class: (
        Annotated[str, AfterValidator(check_storage_class), values.in_any_case(*AWS_STORAGE_CLASSES)] | None
    ) = None
    """Storage class of recordings, such as STANDARD_IA or GLACIER_IR; the metadata JSON has the bucket's default."""
    s3_sse: Annotated[Encryption, values.in_any_case(*ENCRYPTIONS)] | None = None
    """Encryption of recordings and their metadata in S3; empty uses the bucket's default."""
    s3_sse_kms_key_id: Annotated[str, AfterValidator(check_kms_key_id)] | None = None
    """KMS key for S3_SSE=aws:kms and aws:kms:dsse, by id, alias or ARN; empty uses AWS's own key."""
    s3_sse_bucket_key: bool | None = None
    """Use a bucket key for S3_SSE=aws:kms, which needs fewer KMS calls; empty uses the bucket's default."""
    s3_tags: Annotated[Tags, NoDecode, BeforeValidator(values.tags)] = ()
    """Tags of recordings and their metadata, as key=value,key=value; at most ten."""
    s3_content_type: Annotated[str, AfterValidator(check_content_type), values.in_any_case(AUTO_CONTENT_TYPE)] = (
        AUTO_CONTENT_TYPE
    )
    """Content type of recordings; auto is that of the name's extension: video/mp4 for mp4, video/x-matroska for mkv,
    video/mp2t for ts, application/octet-stream where unknown. That of the metadata is application/json."""
    s3_acl: Annotated[CannedAcl, values.in_any_case(*CANNED_ACLS)] | None = None
    """Canned ACL of recordings and their metadata, for buckets with ACLs; empty sends none."""

    redis_url: Annotated[SecretStr, AfterValidator(values.redis_url)] = SecretStr("redis://localhost:6379/0")
    """URL of Redis or Valkey: redis://, unix://, redis+sentinel://, redis+cluster://; rediss is redis over TLS."""
    redis_key_prefix: Annotated[str, AfterValidator(values.key_prefix)] = ""
    """Prefix of all keys, in front of the owner's, for a Redis that other programs use too."""
    redis_ca_file: NamedPath | None = None
    """PEM file of certificates to trust for rediss://, in addition to the system's."""
    redis_timeout_seconds: Seconds = 1.0
    """Time limit of a response from Redis, or three for each 16 KiB of one that comes slowly; at most
    SHUTDOWN_SAVE_SECONDS, or a frozen Redis would delay an exit."""
    lease_seconds: Annotated[float, Field(ge=3, le=_MOST_SECONDS, allow_inf_nan=False)] = 30.0
    """How long a daemon that does not renew its leases keeps its streams; then another one may take them over."""
    instance_id: Annotated[str, Field(min_length=1, max_length=200)] = Field(default_factory=socket.gethostname)
    """Permanent name of this daemon, by default the host's: after a restart it takes its own streams over at once."""

    completed_retention_days: Annotated[float, Field(gt=0, le=_MOST_DAYS, allow_inf_nan=False)] = 30.0
    """How long an ended stream is remembered after its file is gone."""
    failed_retention_days: Annotated[float, Field(gt=0, le=_MOST_DAYS, allow_inf_nan=False)] | None = None
    """The same for failed streams, whose kept uploads are aborted then; empty: as COMPLETED_RETENTION_DAYS."""

    retry_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """Attempts of a call to S3 or Redis before it counts as an outage or a failure."""
    retry_initial_seconds: Seconds = 0.2
    """Longest first pause between attempts; it doubles with each attempt."""
    retry_max_seconds: Seconds = 10.0
    """Longest pause between two attempts."""
    retry_stream_max_seconds: Seconds = 300.0
    """Longest pause of a stream after failed attempts, before it is tried again."""

    ffprobe_path: str = "ffprobe"
    """ffprobe program for durations and codecs; without it they are null."""
    ffprobe_timeout_seconds: Seconds = 30.0
    """Time limit of ffprobe."""

    after_upload: Annotated[AfterUploadRule, NoDecode, BeforeValidator(parse_after_upload), PlainSerializer(str)] = (
        KEEP_RECORDING
    )
    """What to do with recordings after their object is verified (also earlier ones): keep, delete or move:DIR."""
    after_upload_keep_days: Annotated[float, Field(ge=0, le=_MOST_DAYS, allow_inf_nan=False)] = 0.0
    """How many days after its completion AFTER_UPLOAD deletes or moves a recording; 0: at once."""
    min_free_space: Annotated[MinFreeSpace, NoDecode, BeforeValidator(parse_min_free_space), PlainSerializer(str)] = (
        ANY_FREE_SPACE
    )
    """While less of the watched disk is free (20GiB, 10%), the oldest recordings whose objects are verified are deleted
    (with move:DIR, moved) until it is, also before AFTER_UPLOAD_KEEP_DAYS and with keep; 0: never."""
    on_complete_webhook: Annotated[SecretStr, AfterValidator(values.webhook_url)] | None = None
    """URL that receives the metadata JSON of each completed recording by POST, at least once."""
    on_start_webhook: Annotated[SecretStr, AfterValidator(values.webhook_url)] | None = None
    """URL that receives a POST for each recording whose upload begins, at least once."""
    on_failure_webhook: Annotated[SecretStr, AfterValidator(values.webhook_url)] | None = None
    """URL that receives a POST for each upload that failed permanently, at least once."""
    webhook_secret: Annotated[SecretStr, AfterValidator(values.webhook_secret)] | None = None
    """Key of the signature (Standard Webhooks): whsec_ and base64; empty sends no signature."""
    webhook_ca_file: NamedPath | None = None
    """PEM file of certificates to trust for an https webhook instead of the system's."""
    webhook_proxy_url: Annotated[SecretStr, AfterValidator(values.proxy_url)] | None = None
    """HTTP proxy for webhooks, as S3_PROXY_URL; empty connects directly."""
    webhook_timeout_seconds: Seconds = 15.0
    """How long the webhook receiver may take to respond."""
    webhook_retry_hours: Annotated[float, Field(gt=0, le=_MOST_DAYS * 24, allow_inf_nan=False)] = 24.0
    """How long after the completion, start or failure a webhook is retried."""

    prom_host: Annotated[str, AfterValidator(values.listen_host)] = "127.0.0.1"
    """Address of the admin server: metrics, health and the status page, read-only and without a login."""
    prom_port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """Port of the admin server; 0 uses any free one and logs it."""
    prom_allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(values.host_names)] = ()
    """Host names for which the status page is served, comma-separated; addresses and undotted names always are."""

    app_env: Annotated[AppEnvironment, values.in_any_case(*AppEnvironment)] = AppEnvironment.DEVELOPMENT
    """Log format: development for people, production for machines (JSON lines)."""
    log_level: Annotated[_LogLevel, values.in_any_case(*get_args(_LogLevel))] = "INFO"
    """Lowest level that is logged."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources by precedence: overrides, secret files, the environment, the settings file."""
        variables: dict[str, str | None] = {}
        for source in (dotenv_settings, env_settings):
            if isinstance(source, EnvSettingsSource):
                variables |= source.env_vars
        return init_settings, SecretFiles(settings_cls, variables), env_settings, dotenv_settings

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if self.redis_timeout_seconds > self.shutdown_save_seconds:
            raise ValueError(
                f"REDIS_TIMEOUT_SECONDS ({self.redis_timeout_seconds:g}) must be at most SHUTDOWN_SAVE_SECONDS "
                f"({self.shutdown_save_seconds:g}): a frozen Redis would delay an exit"
            )
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY must both be set, or neither")
        if self.s3_session_token is not None and self.s3_access_key_id is None:
            raise ValueError("S3_SESSION_TOKEN needs S3_ACCESS_KEY_ID, which is missing")
        if self.after_upload_keep_days and self.after_upload.action is AfterUploadAction.KEEP:
            raise ValueError(
                "AFTER_UPLOAD_KEEP_DAYS needs AFTER_UPLOAD=delete or move:DIR; with keep, recordings stay for ever"
            )
        webhooks = (self.on_complete_webhook, self.on_start_webhook, self.on_failure_webhook)
        if self.webhook_secret is not None and webhooks == (None, None, None):
            raise ValueError("WEBHOOK_SECRET needs ON_COMPLETE_WEBHOOK, which is missing, or another webhook")
        if self.retry_initial_seconds > self.retry_max_seconds:
            raise ValueError(
                f"RETRY_INITIAL_SECONDS ({self.retry_initial_seconds:g}) must be at most RETRY_MAX_SECONDS "
                f"({self.retry_max_seconds:g})"
            )
        if excludes_everything(self.watch_exclude, self.watch_patterns):
            raise ValueError(
                f"WATCH_EXCLUDE ({','.join(self.watch_exclude)}) excludes every recording that WATCH_PATTERNS "
                f"({','.join(self.watch_patterns)}) names; exclude less, such as {DEFAULT_EXCLUDE[0]},tmp/**"
            )
        if urlsplit(self.s3_endpoint_url or "").path.endswith(f"/{self.s3_bucket_name}"):
            raise ValueError(
                f"S3_ENDPOINT_URL must not end with the bucket /{self.s3_bucket_name}, which S3_BUCKET_NAME adds to it"
            )
        if why := unfit_rate(self.max_upload_rate, self.max_concurrent_parts):
            raise ValueError(why)
        if why := why_unfit(self.object_options, at_aws=self.s3_endpoint_url is None):
            raise ValueError(why)
        return self

    @property
    def after_upload_rule(self) -> AfterUploadRule:
        """``AFTER_UPLOAD`` with ``AFTER_UPLOAD_KEEP_DAYS`` and ``MIN_FREE_SPACE``."""
        keep_seconds = self.after_upload_keep_days * 86_400
        return replace(self.after_upload, keep_seconds=keep_seconds, min_free=self.min_free_space)

    @property
    def watch_dirs(self) -> tuple[Path, ...]:
        """The watch folders, after :func:`check_folders`; before, ``WATCH_DIR`` as it is."""
        return (self.watch_dir, *self._more_watch_dirs)

    @property
    def watch_dir_links(self) -> Mapping[str, str]:
        """The names in ``WATCH_DIR`` that lead over a symbolic link, or may do so, and the watch folders."""
        return self._watch_dir_links

    @property
    def object_options(self) -> ObjectOptions:
        """The options of objects."""
        return ObjectOptions(
            storage_class=self.s3_storage_class,
            encryption=self.s3_sse,
            kms_key_id=self.s3_sse_kms_key_id,
            bucket_key=self.s3_sse_bucket_key,
            tags=self.s3_tags,
            acl=self.s3_acl,
            content_type=self.s3_content_type,
        )


def unfit_rate(rate: UploadRate, parts: int) -> str | None:
    """Return why a rate, or one of a timetable, is too low for ``parts`` concurrent parts; ``None`` if none is."""
    least = LEAST_RATE_OF_A_PART * parts
    low = [one for one in all_rates(rate) if 0 < one < least]
    if not low:
        return None
    return (
        f"MAX_UPLOAD_RATE ({low[0]}) must be 0 (unlimited) or at least {least}: {LEAST_RATE_OF_A_PART} bytes per "
        f"second for each of MAX_CONCURRENT_PARTS ({parts}), because S3 closes connections that are silent for some "
        "seconds"
    )


STAND_INS: Final[Mapping[str, Any]] = MappingProxyType({"watch_dir": Path(os.devnull), "s3_bucket_name": "not-needed"})
"""Values of required settings for commands that do not need them."""


def load_settings(
    env_file: Path | None = Path(".env"), *, unneeded: Collection[str] = (), **overrides: Any
) -> Settings:
    """Load the settings (:func:`read_settings`), and check the folders, unless the watch folder is ``unneeded``.

    Raises:
        SettingsError: a setting is missing or wrong, or a folder may not be used.
    """
    settings = read_settings(env_file, unneeded=unneeded, **overrides)
    return settings if "watch_dir" in unneeded else check_folders(settings)


def read_settings(
    env_file: Path | None = Path(".env"), *, unneeded: Collection[str] = (), **overrides: Any
) -> Settings:
    """Read the settings; ``overrides`` win over the environment, the environment over the file. Empty means unset.

    ``env_file`` may be missing, and so may ``unneeded``, required settings (of ``STAND_INS``) that the caller does not
    use. The mount of the watch folder is not asked: the folder's symbolic links are not resolved.

    Raises:
        SettingsError: a setting is missing or wrong.
    """
    if env_file is not None and not os.path.exists(env_file):  # noqa: PTH110 - Path's raises where it may not look
        env_file = None
    try:
        if lines := _no_assignments(env_file):
            raise SettingsError(lines)
        lines = _misspelt(env_file, overrides) + _quoted(env_file, overrides)
    except UnicodeDecodeError as error:
        raise SettingsError(
            [f"{env_file} cannot be read as settings: its byte {error.start + 1} is no UTF-8 text"]
        ) from error
    except OSError as error:
        raise SettingsError([f"{env_file} cannot be read as settings: {error.strerror or error}"]) from error
    try:
        settings = _validated(env_file, frozenset(unneeded), overrides)
    except ValidationError as error:
        lines += [_line(detail) for detail in error.errors(include_url=False)]
        raise SettingsError(lines) from None
    if lines := lines or [*_unfit_certificates(settings), *_unknown_local_time(settings)]:
        raise SettingsError(lines)
    return settings.model_copy(update={"watch_dir": settings.watch_dir.absolute()})


def check_folders(settings: Settings) -> Settings:
    """Check the folders of the settings, and return the settings with the watch folder's symbolic links resolved.

    Of several watch folders, those that are missing or unreadable now are left to the watcher, which tries them again,
    if there is another one. A single one that is missing is most likely a wrong setting.

    Blocks as long as the mount of a folder does not respond.

    Raises:
        SettingsError: the watch folder is missing (of several: all are), or a folder may not be used.
    """
    given = split_watch_dir(settings.watch_dir)
    first, *others = [Path(os.path.realpath(folder)) for folder in given]
    roots = tuple(Path(os.path.realpath(root)) for root in settings.watch_link_roots)
    found = settings.model_copy(update={"watch_dir": first, "watch_link_roots": roots})
    found._more_watch_dirs = tuple(others)  # noqa: SLF001 - of this module's class
    unfit = {folder: line for folder in given if (line := _unfit_folder(folder)) is not None}
    waits = len(unfit) < len(given) and all(_may_come(folder, settings.watch_dir) for folder in unfit)
    links = {
        os.fspath(name.absolute()): os.fspath(root)
        for name, root in zip(given, found.watch_dirs, strict=True)
        # Where one that is missing leads is not known yet: the watcher reports if that turns out to be elsewhere.
        if name.absolute() != root or (waits and name in unfit)
    }
    found._watch_dir_links = {**settings.watch_dir_links, **links}  # noqa: SLF001 - the same
    lines: list[str | None] = _unfit_together(given) if waits else list(unfit.values())
    lines += _unfit_exclude(found, given)
    lines.append(_unfit_target(found) or _unfit_disk(found))
    if any(lines):
        raise SettingsError([line for line in lines if line])
    return found


def split_watch_dir(watch_dir: Path) -> tuple[Path, ...]:
    """Return the folders of ``WATCH_DIR``: one, if it is an existing folder as a whole, else those between colons.

    Blocks as long as the mount of a folder with a colon does not respond.
    """
    text = os.fspath(watch_dir)
    try:
        is_one = ":" not in text or watch_dir.is_dir()
    except OSError:
        is_one = False
    found = () if is_one else tuple(Path(part).absolute() for part in text.split(":") if part)
    return found or (watch_dir,)


def _may_come(folder: Path, watch_dir: Path) -> bool:
    """Return whether an unfit folder of ``WATCH_DIR`` may be there later: a file, or half a name, is a wrong setting.

    While a folder with a colon in its name is not mounted, it looks like two; the second one's path is then relative.
    """
    is_named = folder in map(Path, os.fspath(watch_dir).split(":"))
    return is_named and not os.path.isfile(folder)  # noqa: PTH113 - Path's raises where it may not look


def _unfit_together(folders: Sequence[Path]) -> list[str | None]:
    """Return a line for each two folders that share recordings, by path or by inode (a link, a bind mount)."""
    lines: list[str | None] = []
    for one, other in combinations(folders, 2):
        first, second = (Path(os.path.realpath(folder)) for folder in (one, other))
        if _is_same(first, second):
            lines.append(f"WATCH_DIR names one folder twice, {str(one)!r} and {str(other)!r}: name it once")
        for outer, inner in ((first, second), (second, first)):
            if any(_is_same(outer, parent) for parent in inner.parents):
                lines.append(f"WATCH_DIR: {str(inner)!r} is inside {str(outer)!r}, which is watched with all in it")
    return lines


def _is_same(one: Path, other: Path) -> bool:
    """Return whether two paths are one folder; by their names alone, where one of them is missing or unreadable."""
    try:
        return one.samefile(other)
    except OSError:
        return one == other


def _validated(env_file: Path | None, unneeded: frozenset[str], overrides: dict[str, Any]) -> Settings:
    try:
        return Settings(_env_file=env_file, **overrides)  # type: ignore[call-arg]
    except ValidationError as error:
        missing = {str(detail["loc"][0]) for detail in error.errors() if detail["type"] == "missing"} & unneeded
        if not missing:
            raise
    return Settings(_env_file=env_file, **{name: STAND_INS[name] for name in missing}, **overrides)  # type: ignore[call-arg]


def _unfit_folder(folder: Path) -> str | None:
    try:
        is_folder = folder.is_dir()
    except OSError:  # name too long, parent not searchable
        is_folder = False
    if not is_folder:
        several = "; several are separated by colons" if values.OTHER_SEPARATOR.search(str(folder)) else ""
        return f"WATCH_DIR must be a folder that exists; {str(folder)!r} is not one{several}"
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"WATCH_DIR must be readable; this user may not read {str(folder)!r}"
    return None


def _unfit_exclude(settings: Settings, given: Sequence[Path]) -> list[str]:
    """Return a line for each pattern of ``WATCH_EXCLUDE`` that begins with a watch folder: it would match nothing."""
    folders = dict.fromkeys(str(folder) for folder in (*given, *settings.watch_dirs) if folder.name)
    return [
        f"WATCH_EXCLUDE: {pattern!r} is relative to WATCH_DIR {folder!r}: write {pattern.removeprefix(folder)!r}"
        for pattern in settings.watch_exclude
        for folder in folders
        if pattern.startswith(f"{folder}/")
    ]


def _unfit_target(settings: Settings) -> str | None:
    """Check the folder of ``AFTER_UPLOAD=move:DIR``: moved recordings must not be watched again."""
    name = settings.after_upload.folder
    if not name:
        return None
    try:
        target = Path(name).resolve()
        nearest = next(folder for folder in (target, *target.parents) if folder.exists())
        watched = [
            *(("WATCH_DIR", folder) for folder in settings.watch_dirs),
            *(("WATCH_LINK_ROOTS", root) for root in settings.watch_link_roots),
        ]
        overlapping = [
            f"{variable} {str(resolved)!r}"
            for variable, folder in watched
            if _overlap(target, nearest, resolved := Path(os.path.realpath(folder)))
        ]
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return f"AFTER_UPLOAD: the folder {name!r} cannot be checked ({error})"
    if overlapping:
        return (
            f"AFTER_UPLOAD: recordings cannot be moved to {name!r}: it is inside {overlapping[0]} or "
            "contains it, so moved recordings would be watched again; use a folder outside"
        )
    if not nearest.is_dir():
        return f"AFTER_UPLOAD: {name!r} cannot be a folder, because {str(nearest)!r} is not one"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"AFTER_UPLOAD: {name!r} cannot be written by this user: no permission for {str(nearest)!r}"
    return None


def _overlap(target: Path, nearest: Path, watched: Path) -> bool:
    """Return whether a folder is inside a watched one or contains it; ``nearest`` is its next existing parent."""
    # By path and by inode: a folder may have two paths (a bind mount).
    if target.is_relative_to(watched) or watched.is_relative_to(target):
        return True
    inside = any(_is_same(watched, one) for one in (nearest, *nearest.parents))
    return inside or (nearest == target and any(_is_same(target, one) for one in watched.parents))


def _unfit_disk(settings: Settings) -> str | None:
    """Check that a move would free space on the watched disk."""
    name = settings.after_upload.folder
    if not (name and settings.min_free_space):
        return None
    try:
        nearest = next(folder for folder in (Path(name), *Path(name).parents) if folder.exists())
        own = nearest.stat().st_dev
        if all(_unfit_folder(folder) is not None or folder.stat().st_dev != own for folder in settings.watch_dirs):
            return None
    except OSError as error:
        return f"MIN_FREE_SPACE: the disk of {name!r} cannot be found ({error})"
    return (
        f"MIN_FREE_SPACE needs AFTER_UPLOAD=move:DIR with a folder on another disk: recordings that are moved to "
        f"{name!r} free no space on the disk of WATCH_DIR"
    )


def _unfit_certificates(settings: Settings) -> list[str]:
    """Return a line for each CA file without certificates; otherwise the start would wait without end."""
    lines = []
    for variable, file in (
        ("S3_CA_FILE", settings.s3_ca_file),
        ("REDIS_CA_FILE", settings.redis_ca_file),
        ("WEBHOOK_CA_FILE", settings.webhook_ca_file),
    ):
        try:
            if file is not None:
                ssl.create_default_context(cafile=file)
        except OSError as error:  # includes ssl.SSLError
            lines.append(f"{variable}: no certificates can be read from {str(file)!r} ({error})")
    return lines


_TZ_RULES: Final = re.compile(r"([a-z]{3,}|<[a-z0-9+-]{3,}>)[+-]?\d", re.IGNORECASE)
"""How rules in ``TZ`` begin (tzset(3)): a name of three letters or more, or one in brackets, and an offset."""


def _unknown_local_time(settings: Settings) -> list[str]:
    """Return a line if a timetable goes by ``TZ`` and that is unknown: the C library would take UTC without a word."""
    name = os.environ.get("TZ", "").removeprefix(":")
    rules = _TZ_RULES.match(name)  # CET-1CEST,M3.5.0,M10.5.0/3 or <+05>-5, which need no file
    known = not name or rules or name == "UTC" or os.path.isfile(os.path.join(_ZONES, name))  # noqa: PTH113, PTH118
    if known or not isinstance(settings.max_upload_rate, RateTimetable):
        return []
    return [f"TZ: {name!r} is no time zone of this machine ({_ZONES}): the times of MAX_UPLOAD_RATE would be UTC"]


def _no_assignments(env_file: Path | None) -> list[str]:
    """Return a line for each line of the settings file that assigns nothing; dotenv would leave it out."""
    if env_file is None:
        return []
    with env_file.open(encoding="utf-8") as stream:
        return [
            f"{env_file}, line {one.original.line}: takes NAME=value, with quotation marks in pairs; else it is ignored"
            for one in parse_stream(stream)
            if one.error or (one.key is not None and one.value is None)
        ]


def _misspelt(env_file: Path | None, overridden: Collection[str]) -> list[str]:
    """Return a line for each variable that is nearly the name of a setting; it would be ignored."""
    names = [*(name.upper() for name in Settings.model_fields), *file_variables(Settings).values()]
    in_file = dotenv_values(env_file) if env_file else {}
    lines = [
        f"{_shown(variable)} in {env_file} is not a setting; did you mean {meant}?"
        for variable, meant in near_misses(in_file, names)
    ]
    given_over = {name.upper() for name in overridden}
    return lines + [
        f"{_shown(variable)} in the environment is not a setting; did you mean {meant}? Rename it, or unset it"
        for variable, meant in near_misses(os.environ, names, shared=True, elsewhere=given_over)
    ]


def _quoted(env_file: Path | None, overridden: Collection[str]) -> list[str]:
    """Return a line for each setting in quotes: podman and Docker take those of their settings files literally."""
    in_file = dotenv_values(env_file) if env_file else {}
    given = {name.upper(): value or "" for name, value in (*in_file.items(), *os.environ.items())}
    names = [*(name for name in Settings.model_fields if name not in overridden), *file_variables(Settings).values()]
    return [
        f"{name.upper()}: the quotes around it are part of the value here: write it without them"
        for name in names
        if re.fullmatch(r"(['\"]).*\1", given.get(name.upper(), ""), re.DOTALL)
    ]


def _shown(variable: str) -> str:
    return variable if variable.isprintable() and " " not in variable else repr(variable)


def _line(detail: Any) -> str:
    if not detail["loc"]:
        return str(detail["msg"]).removeprefix("Value error, ")
    if isinstance(detail["input"], UnreadableSecret):
        return detail["input"].line
    name = str(detail["loc"][0])
    variable = name.upper()
    if detail["type"] == "missing":
        return f"{variable} is missing: {meanings(Settings)[name]}"
    message = re.sub(r"^(Value error, |(Input|String|Tuple|Value) should )", "", str(detail["msg"]))
    message = _TAKES.get(detail["type"]) or re.sub(r"^(be|have) ", r"must \1 ", message)
    # Hide a password in a URL, and the query of a signed URL.
    seen = re.sub(r"(://[^?]*\?).*(?='$)", r"\1***", re.sub(r"://.*@", "://***@", repr(detail["input"])))
    got = "" if is_secret(Settings.model_fields[name]) else f" (it is {seen})"
    return f"{variable}: {message}{got}"


def world_readable_secrets(env_file: Path | None) -> list[WorldReadableFile]:
    """Return the files with secrets that every user of this machine can read: those of ``<NAME>_FILE``, and the
    settings file if it holds a secret. Reads the environment and ``env_file`` like ``read_settings``.
    """
    in_file = {name.upper(): value for name, value in dotenv_values(env_file).items() if value} if env_file else {}
    given = in_file | {name.upper(): value for name, value in os.environ.items() if value}
    files = [Path(given[variable]) for variable in file_variables(Settings).values() if variable in given]
    if env_file and any(_holds_secret(name, in_file.get(name.upper(), "")) for name in file_variables(Settings)):
        files.append(env_file)
    return [found for file in dict.fromkeys(files) if (found := find_world_readable(file)) is not None]


def _holds_secret(name: str, value: str) -> bool:
    if name in {"s3_proxy_url", "webhook_proxy_url"}:
        return "@" in value
    if name == "redis_url":
        return "@" in value or "password" in value
    return bool(value) and name != "s3_access_key_id"


def without_secrets(settings: Settings) -> dict[str, Any]:
    """Return the settings for the log, with secrets replaced."""
    shown = settings.model_dump(mode="json")
    for name, field in Settings.model_fields.items():
        if is_secret(field) and shown[name] is not None:
            shown[name] = "***"
    return shown


_URLS: Final = frozenset({"redis_url", "s3_proxy_url", "webhook_proxy_url"})
"""Secret settings of which only the password is one: the addresses are shown."""


def secret_values(settings: Settings) -> tuple[str, ...]:
    """Return all secrets that are set, and the passwords of ``REDIS_URL`` and of proxies, for redaction in logs.

    A password in a URL is returned both quoted and unquoted. Never raises, even for an invalid ``REDIS_URL``.
    """
    fields = [name for name, field in Settings.model_fields.items() if is_secret(field) and name not in _URLS]
    found = [value.get_secret_value() for name in fields if (value := getattr(settings, name)) is not None]
    proxies = [value for value in (settings.s3_proxy_url, settings.webhook_proxy_url) if value is not None]
    for url in proxies:
        user, _, proxy_password = url.get_secret_value().partition("://")[2].rpartition("@")[0].partition(":")
        both = f"{unquote(user)}:{unquote(proxy_password)}"
        found += [proxy_password, unquote(proxy_password), base64.b64encode(both.encode()).decode() * bool(user)]
    location, _, query = settings.redis_url.get_secret_value().partition("://")[2].partition("?")
    password = location.rpartition("@")[0].partition(":")[2]
    options = [value for name, value in parse_qsl(query) if "password" in name]
    return tuple(secret for secret in (*found, password, unquote(password), *options) if secret)
