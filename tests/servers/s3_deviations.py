"""Where other servers differ from S3, and why: asserted, so that a change is noticed.

``DEVIATIONS`` holds, by server and case, what that server answers instead of what S3 does, and the reason.
"""

from __future__ import annotations

_NO_CHECKSUMS = "Swift verifies a part's checksum, but keeps none and knows none of the whole object"
_MOTO_500 = "moto answers an upload that it does not know with an error of its own"

_SWIFT_CLASSES = "Swift's S3 knows no class but STANDARD, which is refused before anything else"
_SWIFT_TAGS = "Swift's S3 knows no tags"
_SWIFT_ENCRYPTION = "Swift encrypts by its own configuration, and refuses to be asked"
_SWIFT_ACLS = "Swift's S3 takes an ACL with each object, and grants by the bucket's alone unless s3_acl is on"
_MOTO_CHECKS = "moto keeps what it is given, and checks it only with PutObject, or not at all"

DEVIATIONS: dict[tuple[str, str], tuple[str, str]] = {
    ("swift", "a_part_that_comes_after_complete"): (
        "ok, 409 BrokenMPU",
        "Swift takes the late part and the object is broken: why a drain comes before Complete",
    ),
    ("swift", "crc64nvme_is_kept"): ("not returned, not listed, None absent, not in HEAD", _NO_CHECKSUMS),
    ("swift", "what_is_said_of_the_whole_object_is_checked"): ("ok, ok, ok", _NO_CHECKSUMS),
    ("swift", "composite_checksums_need_those_of_the_parts"): ("ok", _NO_CHECKSUMS),
    ("swift", "parts_are_copied_from_an_object"): ("identical, etag of parts, no crc", _NO_CHECKSUMS),
    ("swift", "a_copied_part_is_told_like_a_sent_one"): (
        '"6f6fdd2ac4b41aec3c210e4d9c9e98ba" "" 26, no crc',
        "Swift lists a copied part with an empty ETag",
    ),
    ("swift", "parts_that_cannot_be_copied"): (
        "412 PreconditionFailed, ok, ok, 404 NoSuchKey, 404 NoSuchUpload",
        "Swift copies as much of a range as there is",
    ),
    ("swift", "a_bucket_without_lifecycle"): ("ok", "Swift answers with an empty configuration"),
    ("swift", "a_key_id_that_nobody_has"): (
        "403 SignatureDoesNotMatch",
        "Swift's tempauth does not tell an unknown key from a wrong secret",
    ),
    ("swift", "nothing_signed"): ("400", "without a signature it is a request of Swift's own API, and no such path"),
    ("swift", "storage_class_and_tags_arrive_at_the_object"): ("400 InvalidStorageClass", _SWIFT_CLASSES),
    ("swift", "what_is_archived_is_not_read"): ("400 InvalidStorageClass", _SWIFT_CLASSES),
    ("swift", "tags_that_are_none"): (", ".join(["501 NotImplemented"] * 7), _SWIFT_TAGS),
    ("swift", "encryption_that_is_none"): (
        "400 InvalidArgument, 501 NotImplemented, 400 InvalidArgument",
        _SWIFT_ENCRYPTION,
    ),
    ("swift", "aes256_is_said_with_each_answer"): ("501 NotImplemented", _SWIFT_ENCRYPTION),
    ("swift", "with_kms_etags_are_no_md5s"): ("501 NotImplemented", _SWIFT_ENCRYPTION),
    ("swift", "an_acl_where_the_bucket_has_none"): ("400 InvalidArgument, ok, ok", _SWIFT_ACLS),
    ("swift", "an_acl_arrives_where_the_bucket_has_some"): ("FULL_CONTROL", _SWIFT_ACLS),
    ("moto", "a_storage_class_that_is_none"): ("ok, 400 InvalidStorageClass", _MOTO_CHECKS),
    ("moto", "tags_that_are_none"): (", ".join(["ok"] * 7), _MOTO_CHECKS),
    ("moto", "encryption_that_is_none"): ("ok, ok, ok", _MOTO_CHECKS),
    ("moto", "with_kms_etags_are_no_md5s"): (
        "aws:kms part aws:kms done aws:kms object aws:kms key None, etags md5 md5 md5, whole",
        "moto says that it encrypts, and its ETags stay MD5s",
    ),
    ("moto", "an_acl_where_the_bucket_has_none"): ("500 500, ok, ok", _MOTO_CHECKS),
    ("moto", "parts_are_copied_from_an_object"): ("identical, etag of parts, no crc", _MOTO_CHECKS),
    ("moto", "a_copied_part_is_told_like_a_sent_one"): ("copied, no crc", _MOTO_CHECKS),
    ("moto", "parts_that_cannot_be_copied"): (
        "ok, ok, ok, 404 404, 500 500",
        "moto looks at no condition of a copied part, and does not know NoSuchUpload",
    ),
    ("moto", "parts_out_of_order"): ("ok", "moto takes parts in any order"),
    ("moto", "part_numbers_out_of_range"): ("404 NoSuchUpload, 400 InvalidArgument", "moto takes 0 for no number"),
    ("moto", "nothing_works_after_abort"): (
        "204, 500 500, 404 NoSuchUpload, 500 500, 404 NoSuchUpload",
        _MOTO_500,
    ),
    ("moto", "an_upload_id_that_never_was"): ("500 500, 404 NoSuchUpload, 500 500", _MOTO_500),
    ("moto", "a_part_that_comes_after_complete"): ("500 500, whole", _MOTO_500),
    ("moto", "uploads_are_listed_in_pages"): ("other uploads than were opened", "moto's listing has no pages"),
}
AREAS: dict[str, frozenset[str]] = {
    "memory": frozenset({"multipart", "checksum", "object", "copy", "options", "signature"}),
    "disk": frozenset({"multipart", "checksum", "object", "copy", "options", "signature"}),
    "swift": frozenset({"multipart", "checksum", "object", "copy", "options", "signature"}),
    "moto": frozenset({"multipart", "copy", "options"}),
}
"""The cases of each server: moto takes any signature and ignores checksums, so cases of those prove nothing."""
