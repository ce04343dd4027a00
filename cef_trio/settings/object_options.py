"""Options of objects: storage class, encryption, tags, ACL, content type; their rules in S3 and their headers. Pure.

The settings are validated by the functions here; :class:`ObjectOptions` makes the headers of CreateMultipartUpload and
PutObject. An upload keeps the options that it was created with; a changed setting applies to the next upload.

The metadata JSON of a recording gets the same encryption, tags and ACL. It does not get the storage class: an object in
an archive class cannot be read without a restore, a small object costs more in the infrequent-access classes than in
STANDARD, and the JSON is read before the recording.

Sources: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CreateMultipartUpload.html (headers and their values),
https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html (ten tags, lengths, characters),
https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingDSSEncryption.html (no bucket keys with DSSE).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args
from urllib.parse import quote

MAX_TAGS: Final = 10
MAX_TAG_KEY: Final = 128
MAX_TAG_VALUE: Final = 256
"""In UTF-16 code units, as S3 counts."""
CannedAcl = Literal[
    "private",
    "public-read",
    "public-read-write",
    "aws-exec-read",
    "authenticated-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
]
CANNED_ACLS: Final[tuple[str, ...]] = get_args(CannedAcl)
Encryption = Literal["AES256", "aws:kms", "aws:kms:dsse"]
ENCRYPTIONS: Final[tuple[str, ...]] = get_args(Encryption)
AWS_STORAGE_CLASSES: Final = (
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "GLACIER_IR",
    "DEEP_ARCHIVE",
    "OUTPOSTS",
    "SNOW",
    "EXPRESS_ONEZONE",
    "FSX_OPENZFS",
    "FSX_ONTAP",
)
"""Storage classes of AWS; other stores have their own (Ceph's placement targets)."""
AUTO_CONTENT_TYPE: Final = "auto"
"""The content type of a recording is that of its name's extension."""
DEFAULT_CONTENT_TYPE: Final = "video/mp4"
UNKNOWN_CONTENT_TYPE: Final = "application/octet-stream"
CONTENT_TYPES: Final = MappingProxyType(
    {
        "mp4": DEFAULT_CONTENT_TYPE,
        "m4v": "video/mp4",
        "m4s": "video/iso.segment",
        "cmfv": "video/mp4",
        "mov": "video/quicktime",
        "qt": "video/quicktime",
        "mkv": "video/x-matroska",
        "mk3d": "video/x-matroska",
        "webm": "video/webm",
        "ts": "video/mp2t",
        "m2ts": "video/mp2t",
        "mts": "video/mp2t",
        "mpg": "video/mpeg",
        "mpeg": "video/mpeg",
        "m2v": "video/mpeg",
        "vob": "video/mpeg",
        "flv": "video/x-flv",
        "avi": "video/x-msvideo",
        "asf": "video/x-ms-asf",
        "wmv": "video/x-ms-wmv",
        "ogv": "video/ogg",
        "ogg": "application/ogg",
        "3gp": "video/3gpp",
        "3g2": "video/3gpp2",
        "mxf": "application/mxf",
        "gxf": "application/gxf",
        "dv": "video/x-dv",
        "h264": "video/h264",
        "264": "video/h264",
        "h265": "video/h265",
        "265": "video/h265",
        "hevc": "video/h265",
        "mjpeg": "video/x-motion-jpeg",
        "mjpg": "video/x-motion-jpeg",
        "m4a": "audio/mp4",
        "mp3": "audio/mpeg",
        "aac": "audio/aac",
        "ac3": "audio/ac3",
        "flac": "audio/flac",
        "oga": "audio/ogg",
        "opus": "audio/ogg",
        "wav": "audio/vnd.wave",
        "mka": "audio/x-matroska",
    }
)
"""Content types by extension in lower case: those of IANA's registry, else the ones in common use."""

_STORAGE_CLASS: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TAG_MARKS: Final = "+-=._:/@"
_TOKEN: Final = r"[A-Za-z0-9!#$&^_.+-]{1,127}"  # noqa: S105 - a token of HTTP's grammar
_CONTENT_TYPE: Final = re.compile(rf'{_TOKEN}/{_TOKEN}(; ?{_TOKEN}=({_TOKEN}|"[A-Za-z0-9!#$&^_.+,/= -]*"))*')
_KMS_KEY: Final = re.compile(r"[A-Za-z0-9:/_.-]{1,2048}")
_HEADERS: Final = MappingProxyType(
    {
        "storage_class": "x-amz-storage-class",
        "encryption": "x-amz-server-side-encryption",
        "kms_key_id": "x-amz-server-side-encryption-aws-kms-key-id",
        "bucket_key": "x-amz-server-side-encryption-bucket-key-enabled",
        "acl": "x-amz-acl",
        "tags": "x-amz-tagging",
    }
)

Tags = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectOptions:
    """Options of objects; ``None`` or empty uses the default of the bucket."""

    storage_class: str | None = None
    encryption: str | None = None
    """One of :data:`ENCRYPTIONS`."""
    kms_key_id: str | None = None
    bucket_key: bool | None = None
    tags: Tags = ()
    acl: str | None = None
    """One of :data:`CANNED_ACLS`."""
    content_type: str = AUTO_CONTENT_TYPE
    """Content type of recordings, or :data:`AUTO_CONTENT_TYPE`; the metadata JSON is ``application/json``."""

    def content_type_of(self, path: str) -> str:
        """Return the content type of the recording at a path."""
        if self.content_type != AUTO_CONTENT_TYPE:
            return self.content_type
        return CONTENT_TYPES.get(path.rpartition("/")[2].rpartition(".")[2].lower(), UNKNOWN_CONTENT_TYPE)

    def for_recording(self) -> dict[str, str]:
        """Return the headers of a recording, except its content type."""
        storage_class = {_HEADERS["storage_class"]: self.storage_class} if self.storage_class else {}
        return {**storage_class, **self.for_metadata()}

    def for_metadata(self) -> dict[str, str]:
        """Return the headers of the metadata JSON: all but the storage class."""
        bucket_key = None if self.bucket_key is None else str(self.bucket_key).lower()
        values = {
            "encryption": self.encryption,
            "kms_key_id": self.kms_key_id,
            "bucket_key": bucket_key,
            "acl": self.acl,
            "tags": tagging(self.tags),
        }
        return {_HEADERS[name]: value for name, value in values.items() if value}

    @property
    def requests_kms(self) -> bool:
        """Whether objects are encrypted by KMS; their ETags are then not MD5."""
        return (self.encryption or "").startswith("aws:kms")


def tagging(tags: Sequence[tuple[str, str]]) -> str:
    """Encode tags for ``x-amz-tagging``: a URL query in UTF-8."""
    return "&".join(f"{quote(key, safe='')}={quote(value, safe='')}" for key, value in tags)


def parse_tags(text: str) -> Tags:
    """Parse ``key=value,key=value``; spaces around keys and values are stripped, and a value may be empty.

    Raises:
        ValueError: S3 would refuse a tag; the message names it and the rule.
    """
    tags = []
    for piece in (piece.strip() for piece in text.split(",")):
        if not piece:
            continue
        key, equals, value = piece.partition("=")
        if not equals:
            raise ValueError(f"takes tags as key=value,key=value; {piece!r} has no '='")
        tags.append((key.strip(), value.strip()))
    check_tags(tags)
    return tuple(tags)


def check_tags(tags: Sequence[tuple[str, str]]) -> None:
    """Check tags against S3's rules.

    Raises:
        ValueError: the message names the tag and the rule.
    """
    for key, value in tags:
        if not key:
            raise ValueError("takes tags as key=value; one has no key")
        if key.lower().startswith("aws:"):
            raise ValueError(f"tag {key!r}: keys that begin with 'aws:' are AWS's own")
        for what, text, limit in (("key", key, MAX_TAG_KEY), ("value", value, MAX_TAG_VALUE)):
            if (length := len(text.encode("utf-16-le", "surrogatepass")) // 2) > limit:
                raise ValueError(f"tag {key[:40]!r}: a {what} has at most {limit} characters, this one has {length}")
            if not all(_may_stand_in_tag(character) for character in text):
                raise ValueError(
                    f"tag {key!r}: a {what} may contain letters, digits, spaces, {' '.join(_TAG_MARKS)}, not {text!r}"
                )
    keys = [key for key, _ in tags]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"tag {twice[0]!r} is given twice")
    if len(tags) > MAX_TAGS:
        raise ValueError(f"an object has at most {MAX_TAGS} tags, these are {len(tags)}")


def _may_stand_in_tag(character: str) -> bool:
    """Match S3's ``[\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]``, except line and paragraph separators."""
    category = unicodedata.category(character)
    return category[0] in "LN" or category == "Zs" or character in _TAG_MARKS


def _form_check(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    """Return a check of a setting's form; its ``ValueError`` names ``what`` the setting takes."""

    def check(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise ValueError(f"takes {what}")
        return text

    return check


check_storage_class: Final = _form_check(
    _STORAGE_CLASS, "a storage class such as STANDARD_IA, GLACIER_IR or INTELLIGENT_TIERING"
)
"""The form only: the names differ between stores."""
check_content_type: Final = _form_check(
    re.compile(f"{AUTO_CONTENT_TYPE}|{_CONTENT_TYPE.pattern}"),
    "a content type such as video/mp4 or application/octet-stream, or auto",
)
check_kms_key_id: Final = _form_check(
    _KMS_KEY, "a KMS key's id, alias or ARN, such as arn:aws:kms:eu-west-1:111122223333:key/…"
)


def why_unfit(options: ObjectOptions, *, at_aws: bool) -> str | None:
    """Return why options conflict with each other or with the store, naming the settings; ``None`` if they do not."""
    if options.kms_key_id is not None and not options.requests_kms:
        return "S3_SSE_KMS_KEY_ID needs S3_SSE=aws:kms or aws:kms:dsse"
    if options.bucket_key is not None and options.encryption != "aws:kms":
        return "S3_SSE_BUCKET_KEY needs S3_SSE=aws:kms; other encryptions have no bucket keys"
    if at_aws and options.storage_class is not None and options.storage_class not in AWS_STORAGE_CLASSES:
        return (
            f"S3_STORAGE_CLASS: AWS has no storage class {options.storage_class!r}; "
            f"use one of {', '.join(AWS_STORAGE_CLASSES)}"
        )
    return None
