"""Where other servers answer otherwise than S3, and why: asserted, so that a change is noticed.

``DEVIATIONS`` holds, by server and case, what that server answers instead of what S3 does, and the reason.
"""

from __future__ import annotations

_NO_CHECKSUMS = "Swift verifies a part's checksum, but keeps none and knows none of the whole object"
_MOTO_500 = "moto answers an upload that it does not know with an error of its own"

DEVIATIONS: dict[tuple[str, str], tuple[str, str]] = {
    ("swift", "a_part_that_comes_after_complete"): (
        "ok, 409 BrokenMPU",
        "Swift takes the late part and the object is broken: why a drain comes before Complete",
    ),
    ("swift", "crc64nvme_is_kept"): ("not returned, not listed, None absent, not in HEAD", _NO_CHECKSUMS),
    ("swift", "what_is_said_of_the_whole_object_is_checked"): ("ok, ok, ok", _NO_CHECKSUMS),
    ("swift", "composite_checksums_need_those_of_the_parts"): ("ok", _NO_CHECKSUMS),
    ("swift", "a_bucket_without_lifecycle"): ("ok", "Swift answers with an empty configuration"),
    ("swift", "a_key_id_that_nobody_has"): (
        "403 SignatureDoesNotMatch",
        "Swift's tempauth does not tell an unknown key from a wrong secret",
    ),
    ("swift", "nothing_signed"): ("400", "without a signature it is a request of Swift's own API, and no such path"),
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
    "memory": frozenset({"multipart", "checksum", "object", "signature"}),
    "disk": frozenset({"multipart", "checksum", "object", "signature"}),
    "swift": frozenset({"multipart", "checksum", "object", "signature"}),
    "moto": frozenset({"multipart"}),
}
"""What each server is asked: moto takes any signature and ignores checksums, so only multipart rules say anything."""
