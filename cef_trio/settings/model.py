"""Settings from environment variables or a ``.env`` file, validated once, at the start.

Every field is a variable of the same name in capitals. ``example.env`` and ``docs/settings.md`` are made from this
class (``python -m cef_trio.settings.reference example-env|settings-md``), and a test compares them. An error is one
line with the variable, the value (never a secret) and what it takes. ``secret_files.py`` reads ``<NAME>_FILE``.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import ssl
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import parse_qsl, unquote

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from cef_trio.exceptions import CefMp4ProcessorError
from cef_trio.settings import values
from cef_trio.settings.after_upload import KEEP, AfterUploadRule, parse_after_upload
from cef_trio.settings.object_options import (
    AWS_STORAGE_CLASSES,
    CANNED_ACLS,
    DEFAULT_CONTENT_TYPE,
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
from cef_trio.settings.secret_files import Exposure, SecretFiles, UnreadableSecret, exposure, file_variables, is_secret

LEAST_RATE_OF_A_PART: Final = 4096
"""Bytes per second. Slower parts would take hours and risk S3's timeout (``s3/token_bucket.py``)."""
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


class SettingsError(CefMp4ProcessorError):
    """Settings are missing or wrong; ``lines`` holds one line for each."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        super().__init__("\n".join(lines))


class AppEnvironment(StrEnum):
    """Audience of the logs: ``development`` for people, ``production`` for machines."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


_Addressing = Literal["auto", "path", "virtual"]
_Checksum = Literal["auto", "crc64nvme", "crc32c", "sha256", "md5"]
_PayloadSigning = Literal["auto", "signed", "unsigned"]
_Encryption = Encryption
_Acl = CannedAcl
_LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


NamedPath = Annotated[Path, AfterValidator(values.named_path)]
Secret = SecretStr


class Settings(BaseSettings):
    """All settings of the daemon."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True)

    watch_dir: NamedPath
    """The folder to watch, with everything below it."""
    watch_patterns: Annotated[tuple[str, ...], NoDecode, BeforeValidator(values.patterns), Field(min_length=1)] = (
        "*.mp4",
    )
    """Which file names are recordings: comma-separated patterns with * and ?, upper and lower case alike."""
    chunk_size_bytes: Annotated[int, BeforeValidator(values.size_in_bytes), Field(ge=5 << 20, le=5 << 30)] = 10 << 20
    """The size of a part, 5MiB to 5GiB; fixed for a recording when its upload begins, and doubled every 1,000 parts."""
    s3_equal_parts: bool = False
    """Keep all parts of a recording equally long, for stores that insist (Cloudflare R2); then 10,000 parts are all."""
    stream_timeout_seconds: Seconds = 30.0
    """After so long without a write a recording has ended, where no close is seen (network mounts, hung writers)."""
    close_grace_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """How long a closed recording must stay as it is before it is finalized."""
    rescan_seconds: Seconds = 30.0
    """How often the whole folder is read again, which repairs whatever events were missed."""
    stale_check_seconds: Seconds = 5.0
    """How often streams are checked for silence, and Redis for streams that nobody works on."""
    file_system_timeout_seconds: Seconds = 10.0
    """How long a file system may be silent before its mount is set aside, until it answers."""
    max_concurrent_streams: Annotated[int, Field(ge=1, le=10_000)] = 10
    """How many streams may work (read, upload, verify) at once; any number may be open."""
    max_concurrent_parts: Annotated[int, Field(ge=1, le=1_000)] = 4
    """How many parts the whole daemon uploads at once."""
    max_upload_rate: Annotated[int, BeforeValidator(values.size_in_bytes), Field(ge=0)] = 0
    """Bytes a second that the whole daemon sends at most, such as 10MiB; 0 is no limit. Changed by SIGHUP too."""
    shutdown_grace_seconds: Seconds = 6.0
    """From the first signal on, how long parts in flight may take to finish."""
    shutdown_save_seconds: Seconds = 2.0
    """After that, how long saving the streams' states may take. Exit takes one second more than both at most."""

    s3_endpoint_url: Annotated[str, AfterValidator(values.endpoint_url)] | None = None
    """Where S3 is; nothing for AWS."""
    s3_access_key_id: Annotated[Secret, AfterValidator(values.printable_ascii)] | None = None
    """Without it, AWS's own chain is asked (profiles, instance and container roles); that takes the extra "aws"."""
    s3_secret_access_key: Secret | None = None
    """The secret that belongs to S3_ACCESS_KEY_ID."""
    s3_session_token: Annotated[Secret, AfterValidator(values.printable_ascii)] | None = None
    """The session token of temporary credentials."""
    s3_bucket_name: Annotated[str, AfterValidator(values.bucket_name)]
    """The bucket."""
    s3_region_name: str = "us-east-1"
    """The bucket's region."""
    s3_create_bucket: bool = False
    """Create the bucket if it does not exist."""
    s3_key_template: Annotated[str, AfterValidator(values.key_template)] = "streams/{stream_id}/{file_name}"
    """The object's key: a fixed prefix, then {stream_id}, {file_name} and {file_stem} as you like."""
    s3_addressing: Annotated[_Addressing, values.in_any_case(*get_args(_Addressing))] = "auto"
    """Whether the bucket stands in the path or in the host name; auto is the host name at AWS, else the path."""
    s3_checksum: Annotated[_Checksum, values.in_any_case(*get_args(_Checksum))] = "auto"
    """How parts are proved; auto is CRC64NVME, and MD5 where the store does not know it."""
    s3_payload_signing: Annotated[_PayloadSigning, values.in_any_case(*get_args(_PayloadSigning))] = "auto"
    """Whether bodies are signed; auto does not sign them, since their checksum proves them, until a store insists."""
    s3_ca_file: NamedPath | None = None
    """Certificates to trust instead of the system's, PEM."""
    s3_connect_timeout_seconds: Seconds = 10.0
    """How long a connection to S3 may take."""
    s3_read_timeout_seconds: Seconds = 60.0
    """How long S3 may be silent while its answer is awaited."""
    s3_write_timeout_seconds: Seconds = 60.0
    """How long S3 may take to accept one block of 512 KiB; never the time of a whole part."""
    s3_complete_timeout_seconds: Seconds = 300.0
    """How long S3 may be silent after CompleteMultipartUpload; stores that copy parts together take minutes."""
    s3_storage_class: (
        Annotated[str, AfterValidator(check_storage_class), values.in_any_case(*AWS_STORAGE_CLASSES)] | None
    ) = None
    """The recordings' storage class, such as STANDARD_IA or GLACIER_IR; the metadata JSON stays in the bucket's own."""
    s3_sse: Annotated[_Encryption, values.in_any_case(*ENCRYPTIONS)] | None = None
    """How S3 encrypts recordings and their metadata; nothing is the bucket's own way."""
    s3_sse_kms_key_id: Annotated[str, AfterValidator(check_kms_key_id)] | None = None
    """The KMS key for S3_SSE=aws:kms and aws:kms:dsse, by id, alias or ARN; nothing is AWS's own key."""
    s3_sse_bucket_key: bool | None = None
    """Whether S3_SSE=aws:kms uses a bucket key, which asks KMS less often; nothing is the bucket's own way."""
    s3_tags: Annotated[Tags, NoDecode, BeforeValidator(values.tags)] = ()
    """Tags of recordings and their metadata, as key=value,key=value; ten at most."""
    s3_content_type: Annotated[str, AfterValidator(check_content_type)] = DEFAULT_CONTENT_TYPE
    """The recordings' content type; that of the metadata is application/json."""
    s3_acl: Annotated[_Acl, values.in_any_case(*CANNED_ACLS)] | None = None
    """The canned ACL of recordings and their metadata, for buckets that have ACLs; nothing sends none."""

    redis_url: Annotated[Secret, AfterValidator(values.redis_url)] = SecretStr("redis://localhost:6379/0")
    """Where Redis or Valkey is: redis://, unix://, redis+sentinel://, redis+cluster://; rediss is redis over TLS."""
    redis_key_prefix: str = ""
    """What all keys begin with; {node-a}: makes them one slot of a cluster, and keeps two daemons apart."""
    redis_ca_file: NamedPath | None = None
    """Certificates to trust for rediss://, beside the system's, PEM."""
    redis_timeout_seconds: Seconds = 1.0
    """How long Redis may take to answer; at most SHUTDOWN_SAVE_SECONDS, or a frozen Redis would hold an exit back."""
    lease_seconds: Annotated[float, Field(ge=3, allow_inf_nan=False)] = 30.0
    """How long a daemon that does not show itself keeps its streams; another one may take them over after that."""
    instance_id: Annotated[str, Field(min_length=1, max_length=200)] = Field(default_factory=socket.gethostname)
    """This daemon's lasting name, the host's by default: after a restart it takes its own streams over at once."""

    completed_retention_days: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0
    """How long a completed stream is remembered after its file is gone."""

    retry_attempts: Annotated[int, Field(ge=1, le=100)] = 5
    """How often a call to S3 or Redis is tried before the outage is one for all streams."""
    retry_initial_seconds: Seconds = 0.2
    """The longest first wait; it doubles with each attempt."""
    retry_max_seconds: Seconds = 10.0
    """The longest wait between two attempts."""
    retry_stream_max_seconds: Seconds = 300.0
    """The longest wait of a stream whose attempts were exhausted, before it is tried again."""

    ffprobe_path: str = "ffprobe"
    """The ffprobe to ask for durations and codecs; without one, durations are null."""
    ffprobe_timeout_seconds: Seconds = 30.0
    """How long ffprobe may take."""

    after_upload: Annotated[AfterUploadRule, NoDecode, BeforeValidator(parse_after_upload), PlainSerializer(str)] = KEEP
    """What becomes of recordings (of those completed before too) whose object is verified: keep, delete or move:DIR."""
    on_complete_webhook: Annotated[Secret, AfterValidator(values.webhook_url)] | None = None
    """A URL that is sent the metadata JSON of each completed recording, by POST, at least once."""
    webhook_secret: Annotated[Secret, AfterValidator(values.webhook_secret)] | None = None
    """Signs what is sent, as Standard Webhooks has it: whsec_ and base64; without it nothing is signed."""
    webhook_ca_file: NamedPath | None = None
    """Certificates to trust for an https webhook instead of the system's, PEM."""
    webhook_timeout_seconds: Seconds = 15.0
    """How long the receiver of a webhook may take to answer."""
    webhook_retry_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 24.0
    """How long after a recording's completion its webhook is tried."""

    prom_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Where the admin server listens: metrics, health and the status page, read-only, for whoever reaches it."""
    prom_port: Annotated[int, Field(ge=0, le=65_535)] = 8000
    """Its port; 0 takes any that is free, and logs which."""
    prom_allowed_hosts: Annotated[tuple[str, ...], NoDecode, BeforeValidator(values.host_names)] = ()
    """Names by which browsers may ask for the status page, comma-separated; addresses and undotted names always may."""

    app_env: Annotated[AppEnvironment, values.in_any_case(*AppEnvironment)] = AppEnvironment.DEVELOPMENT
    """development logs for a person, production logs JSON lines."""
    log_level: Annotated[_LogLevel, values.in_any_case(*get_args(_LogLevel))] = "INFO"
    """The least level that is logged."""

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
                f"REDIS_TIMEOUT_SECONDS ({self.redis_timeout_seconds:g}) is at most SHUTDOWN_SAVE_SECONDS "
                f"({self.shutdown_save_seconds:g}): a frozen Redis would hold an exit back"
            )
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY are given together, or neither is")
        if self.s3_session_token is not None and self.s3_access_key_id is None:
            raise ValueError("S3_SESSION_TOKEN belongs to an S3_ACCESS_KEY_ID, which is missing")
        if self.webhook_secret is not None and self.on_complete_webhook is None:
            raise ValueError("WEBHOOK_SECRET signs what ON_COMPLETE_WEBHOOK is sent, which is missing")
        if self.retry_initial_seconds > self.retry_max_seconds:
            raise ValueError(
                f"RETRY_INITIAL_SECONDS ({self.retry_initial_seconds:g}) is at most RETRY_MAX_SECONDS "
                f"({self.retry_max_seconds:g})"
            )
        if why := unfit_rate(self.max_upload_rate, self.max_concurrent_parts):
            raise ValueError(why)
        if why := why_unfit(self.object_options, at_aws=self.s3_endpoint_url is None):
            raise ValueError(why)
        return self

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


def unfit_rate(rate: int, parts: int) -> str | None:
    """Return why a rate is too low for ``parts`` concurrent parts; ``None`` if it is not."""
    least = LEAST_RATE_OF_A_PART * parts
    if not 0 < rate < least:
        return None
    return (
        f"MAX_UPLOAD_RATE ({rate}) is 0, for no limit, or at least {least}: {LEAST_RATE_OF_A_PART} bytes a second for "
        f"each of MAX_CONCURRENT_PARTS ({parts}), since S3 gives up a part that brings it nothing for some seconds"
    )


STAND_INS: Final[Mapping[str, Any]] = MappingProxyType({"watch_dir": Path(os.devnull), "s3_bucket_name": "not-needed"})
"""Values of required settings for commands that do not need them."""


def load_settings(
    env_file: Path | None = Path(".env"), *, unneeded: Collection[str] = (), **overrides: Any
) -> Settings:
    """Load the settings; ``overrides`` win over the environment, the environment over the file. Empty means unset.

    Args:
        env_file: settings file; may be missing.
        unneeded: required settings (of ``STAND_INS``) that the caller does not use and that may be missing; the watch
            folder then need not exist.
        overrides: fields of :class:`Settings`.

    Raises:
        SettingsError: a setting is missing or wrong.
    """
    try:
        lines = _misspelt(env_file)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{env_file} cannot be read as settings: {error}"]) from error
    try:
        settings = _validated(env_file, frozenset(unneeded), overrides)
    except ValidationError as error:
        lines += [_line(detail) for detail in error.errors(include_url=False)]
        raise SettingsError(lines) from None
    if lines:
        raise SettingsError(lines)
    unfit_folder = None if "watch_dir" in unneeded else _unfit_folder(settings.watch_dir)
    unfit_target = None if "watch_dir" in unneeded else _unfit_target(settings)
    if lines := [line for line in (unfit_folder, unfit_target, *_unfit_certificates(settings)) if line]:
        raise SettingsError(lines)
    return settings.model_copy(update={"watch_dir": settings.watch_dir.resolve()})


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
        return f"WATCH_DIR is a folder that exists; {str(folder)!r} is not one"
    if not os.access(folder, os.R_OK | os.X_OK):
        return f"WATCH_DIR is a folder that can be read; {str(folder)!r} may not be, by this user"
    return None


def _unfit_target(settings: Settings) -> str | None:
    """Check the folder of ``AFTER_UPLOAD=move:DIR``: moved recordings must not be watched again."""
    name = settings.after_upload.folder
    if not name:
        return None
    try:
        target, watched = Path(name).resolve(), settings.watch_dir.resolve()
        nearest = next(folder for folder in (target, *target.parents) if folder.exists())
        # By path and by inode: a folder may have two paths (a bind mount).
        inside = target.is_relative_to(watched) or any(watched.samefile(one) for one in (nearest, *nearest.parents))
        around = watched.is_relative_to(target) or (
            nearest == target and any(target.samefile(one) for one in watched.parents)
        )
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        return f"AFTER_UPLOAD: the folder {name!r} cannot be looked at ({error})"
    if inside or around:
        return (
            f"AFTER_UPLOAD: recordings cannot be moved to {name!r}: it and WATCH_DIR {str(watched)!r} lie in each "
            "other, so what was moved would be watched again; take a folder beside it"
        )
    if not nearest.is_dir():
        return f"AFTER_UPLOAD: {name!r} cannot be a folder, since {str(nearest)!r} is none"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"AFTER_UPLOAD: {name!r} cannot be written, by this user: {str(nearest)!r} does not allow it"
    return None


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


def _misspelt(env_file: Path | None) -> list[str]:
    """Return a line for each variable of the file that is nearly the name of a setting; it would be ignored."""
    names = [*(name.upper() for name in Settings.model_fields), *file_variables(Settings).values()]
    lines = []
    for variable in dotenv_values(env_file) if env_file else ():
        close = difflib.get_close_matches(variable.upper(), names, n=1, cutoff=0.85)
        if close and variable.upper() not in names:
            lines.append(f"{variable} in {env_file} is no setting; did you mean {close[0]}?")
    return lines


def _line(detail: Any) -> str:
    if not detail["loc"]:
        return str(detail["msg"]).removeprefix("Value error, ")
    if isinstance(detail["input"], UnreadableSecret):
        return detail["input"].line
    name = str(detail["loc"][0])
    variable = name.upper()
    if detail["type"] == "missing":
        return f"{variable} is missing: {Settings.model_fields[name].description}"
    says = re.sub(r"^(Value error, |(Input|String|Tuple|Value) should )", "", str(detail["msg"]))
    says = _TAKES.get(detail["type"]) or re.sub(r"^(be|have) ", r"must \1 ", says)
    # Hide a password in a URL, and the query of a signed URL.
    seen = re.sub(r"(://[^?]*\?).*(?='$)", r"\1***", re.sub(r"://.*@", "://***@", repr(detail["input"])))
    got = "" if is_secret(Settings.model_fields[name]) else f" (it is {seen})"
    return f"{variable}: {says}{got}"


def exposed_secrets(env_file: Path | None) -> list[Exposure]:
    """Return the files with secrets that every user of this machine can read: those of ``<NAME>_FILE``, and the
    settings file if it holds a secret. Reads the environment and ``env_file`` like ``load_settings``.
    """
    in_file = {name.upper(): value for name, value in dotenv_values(env_file).items() if value} if env_file else {}
    given = in_file | {name.upper(): value for name, value in os.environ.items() if value}
    files = [Path(given[variable]) for variable in file_variables(Settings).values() if variable in given]
    if env_file and any(_holds_secret(name, in_file.get(name.upper(), "")) for name in file_variables(Settings)):
        files.append(env_file)
    return [found for file in dict.fromkeys(files) if (found := exposure(file)) is not None]


def _holds_secret(name: str, value: str) -> bool:
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


def secret_values(settings: Settings) -> tuple[str, ...]:
    """Return all secrets that are set, and the passwords of ``REDIS_URL``, for redaction in logs.

    A password in a URL is returned both quoted and unquoted. Never raises, even for an invalid ``REDIS_URL``.
    """
    fields = [name for name, field in Settings.model_fields.items() if is_secret(field) and name != "redis_url"]
    found = [value.get_secret_value() for name in fields if (value := getattr(settings, name)) is not None]
    location, _, query = settings.redis_url.get_secret_value().partition("://")[2].partition("?")
    password = location.rpartition("@")[0].partition(":")[2]
    options = [value for name, value in parse_qsl(query) if "password" in name]
    return tuple(secret for secret in (*found, password, unquote(password), *options) if secret)
