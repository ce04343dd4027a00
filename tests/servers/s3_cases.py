"""The conformance cases: what S3 does, as functions of a boto3 client that tell an outcome.

A case makes some calls and returns their outcome in a few words: ``"ok"``, an error as ``"404 NoSuchUpload"``, or what
it saw. ``expected`` is what AWS S3 returns, by its API reference. ``s3_deviations.py`` lists the deviations of others.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial, wraps
from typing import Any
from unittest import mock

import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.crt.auth
import botocore.exceptions
import httpx
from awscrt import checksums as crt
from servers.endpoints import Endpoint

MIB = 1024 * 1024
BIG = bytes(itertools.islice(itertools.cycle(range(251)), 5 * MIB))
SMALL = b"the last part may be small"


@dataclass(frozen=True)
class Bench:
    """A server, a client of it, and a key of its own."""

    endpoint: Endpoint
    client: Any
    key: str

    @property
    def bucket(self) -> str:
        return self.endpoint.bucket

    @property
    def place(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.key}

    def create(self, **more: Any) -> dict[str, str]:
        """Open an upload; what every further call of it needs."""
        created = self.client.create_multipart_upload(**self.place, **more)
        return {**self.place, "UploadId": created["UploadId"]}

    def part(self, upload: dict[str, str], number: int, body: bytes = SMALL, **more: Any) -> dict[str, Any]:
        sent = self.client.upload_part(**upload, PartNumber=number, Body=body, **more)
        return {"PartNumber": number, "ETag": sent["ETag"]}

    def complete(self, upload: dict[str, str], *parts: dict[str, Any], **more: Any) -> dict[str, Any]:
        done: dict[str, Any] = self.client.complete_multipart_upload(
            **upload, MultipartUpload={"Parts": list(parts)}, **more
        )
        return done

    def body(self) -> bytes:
        body: bytes = self.client.get_object(**self.place)["Body"].read()
        return body


@dataclass(frozen=True)
class Case:
    """A case, what S3 answers, and which area of S3 it is of (``multipart``, ``object``, ``signature``)."""

    run: Callable[[Bench], str]
    expected: str
    area: str

    @property
    def name(self) -> str:
        return self.run.__name__


CASES: list[Case] = []


def case(expected: str, area: str = "multipart") -> Callable[[Callable[[Bench], str]], Callable[[Bench], str]]:
    def keep(run: Callable[[Bench], str]) -> Callable[[Bench], str]:
        CASES.append(Case(run, expected, area))
        return run

    return keep


def new_key() -> str:
    return f"streams/{uuid.uuid4()}/recording.mp4"


def outcome_of(call: Callable[[], Any]) -> str:
    """Return ``"ok"``, or the status and code of the error."""
    try:
        call()
    except botocore.exceptions.ClientError as error:
        answer: dict[str, Any] = error.response
        return f"{answer['ResponseMetadata']['HTTPStatusCode']} {answer['Error']['Code']}"
    return "ok"


# Multipart uploads


@case("identical, etag of parts")
def parts_become_the_object(bench: Bench) -> str:
    upload = bench.create()
    done = bench.complete(upload, bench.part(upload, 1, BIG), bench.part(upload, 2))
    md5s = hashlib.md5(hashlib.md5(BIG).digest() + hashlib.md5(SMALL).digest()).hexdigest()
    identical = "identical" if bench.body() == BIG + SMALL else "different"
    return f"{identical}, {'etag of parts' if done['ETag'] == chr(34) + md5s + '-2' + chr(34) else done['ETag']}"


@case("ok")
def numbers_may_have_gaps(bench: Bench) -> str:
    upload = bench.create()
    return outcome_of(lambda: bench.complete(upload, bench.part(upload, 7, BIG), bench.part(upload, 10_000)))


@case("400 EntityTooSmall")
def a_small_part_that_is_not_the_last(bench: Bench) -> str:
    upload = bench.create()
    parts = [bench.part(upload, 1), bench.part(upload, 2)]
    return outcome_of(lambda: bench.complete(upload, *parts))


@case("400 InvalidPartOrder")
def parts_out_of_order(bench: Bench) -> str:
    upload = bench.create()
    parts = [bench.part(upload, 1, BIG), bench.part(upload, 2, BIG)]
    return outcome_of(lambda: bench.complete(upload, parts[1], parts[0]))


@case("400 InvalidPart")
def a_part_with_another_etag(bench: Bench) -> str:
    upload = bench.create()
    bench.part(upload, 1)
    return outcome_of(lambda: bench.complete(upload, {"PartNumber": 1, "ETag": '"' + "0" * 32 + '"'}))


@case("400 InvalidPart")
def a_part_that_was_never_sent(bench: Bench) -> str:
    upload = bench.create()
    part = bench.part(upload, 1, BIG)
    return outcome_of(lambda: bench.complete(upload, part, {**part, "PartNumber": 2}))


@case("400 MalformedXML")
def complete_without_parts(bench: Bench) -> str:
    upload = bench.create()
    bench.part(upload, 1)
    return outcome_of(lambda: bench.complete(upload))


@case("400 InvalidArgument, 400 InvalidArgument")
def part_numbers_out_of_range(bench: Bench) -> str:
    upload = bench.create()
    return ", ".join(outcome_of(partial(bench.part, upload, number)) for number in (0, 10_001))


@case("second")
def a_part_sent_again_replaces_the_first(bench: Bench) -> str:
    upload = bench.create()
    bench.part(upload, 1, b"first")
    bench.complete(upload, bench.part(upload, 1, b"second"))
    return bench.body().decode()


@case("204, 404 NoSuchUpload, 404 NoSuchUpload, 404 NoSuchUpload, 404 NoSuchUpload")
def nothing_works_after_abort(bench: Bench) -> str:
    upload = bench.create()
    part = bench.part(upload, 1)
    status = bench.client.abort_multipart_upload(**upload)["ResponseMetadata"]["HTTPStatusCode"]
    return ", ".join(
        [
            str(status),
            outcome_of(lambda: bench.part(upload, 2)),
            outcome_of(lambda: bench.client.list_parts(**upload)),
            outcome_of(lambda: bench.complete(upload, part)),
            outcome_of(lambda: bench.client.abort_multipart_upload(**upload)),
        ]
    )


@case("404 NoSuchUpload, 404 NoSuchUpload, 404 NoSuchUpload")
def an_upload_id_that_never_was(bench: Bench) -> str:
    upload = {**bench.place, "UploadId": "bm9uZXhpc3RlbnQ"}
    return ", ".join(
        [
            outcome_of(lambda: bench.part(upload, 1)),
            outcome_of(lambda: bench.client.list_parts(**upload)),
            outcome_of(lambda: bench.complete(upload, {"PartNumber": 1, "ETag": '"x"'})),
        ]
    )


@case("same")
def complete_again_answers_the_same(bench: Bench) -> str:
    upload = bench.create()
    part = bench.part(upload, 1)
    first = bench.complete(upload, part)
    second = outcome_of(lambda: bench.complete(upload, part))
    if second != "ok":
        return second
    return "same" if bench.complete(upload, part)["ETag"] == first["ETag"] else "different"


@case("404 NoSuchUpload, whole")
def a_part_that_comes_after_complete(bench: Bench) -> str:
    upload = bench.create()
    bench.complete(upload, bench.part(upload, 1))
    late = outcome_of(lambda: bench.part(upload, 1, b"late"))
    reading = outcome_of(bench.body)
    return f"{late}, {'whole' if reading == 'ok' and bench.body() == SMALL else reading}"


@case("1 2|3 / 3 sizes right")
def parts_are_listed_in_pages(bench: Bench) -> str:
    upload = bench.create()
    for number in (3, 1, 2):
        bench.part(upload, number, b"x" * number)
    first = bench.client.list_parts(**upload, MaxParts=2)
    if not first["IsTruncated"]:
        return "not truncated"
    second = bench.client.list_parts(**upload, MaxParts=2, PartNumberMarker=first["NextPartNumberMarker"])
    pages = [page.get("Parts", []) for page in (first, second)]
    sizes = sum(part["Size"] == part["PartNumber"] for page in pages for part in page)
    return "|".join(" ".join(str(part["PartNumber"]) for part in page) for page in pages) + f" / {sizes} sizes right"


@case("a a b|b c")
def uploads_are_listed_in_pages(bench: Bench) -> str:
    ids = [
        bench.client.create_multipart_upload(Bucket=bench.bucket, Key=f"{bench.key}/{name}")["UploadId"]
        for name in "abcab"
    ]
    first = bench.client.list_multipart_uploads(Bucket=bench.bucket, Prefix=f"{bench.key}/", MaxUploads=3)
    second = bench.client.list_multipart_uploads(
        Bucket=bench.bucket,
        Prefix=f"{bench.key}/",
        MaxUploads=3,
        KeyMarker=first.get("NextKeyMarker", ""),
        UploadIdMarker=first.get("NextUploadIdMarker", ""),
    )
    pages = [page.get("Uploads", []) for page in (first, second)]
    if sorted(each["UploadId"] for page in pages for each in page) != sorted(ids):
        return "other uploads than were opened"
    return "|".join(" ".join(each["Key"][-1] for each in page) for page in pages)


@case("mp4 video/mp4")
def what_was_said_at_the_creation_arrives_at_the_object(bench: Bench) -> str:
    upload = bench.create(Metadata={"kind": "mp4"}, ContentType="video/mp4")
    bench.complete(upload, bench.part(upload, 1))
    head = bench.client.head_object(**bench.place)
    return f"{head['Metadata'].get('kind')} {head['ContentType']}"


@case("400 BadDigest, 400 InvalidDigest", "checksum")
def a_part_with_another_content_md5(bench: Bench) -> str:
    upload = bench.create()
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    return ", ".join(outcome_of(partial(bench.part, upload, 1, ContentMD5=md5)) for md5 in (wrong, "bm8="))


@case("BadDigest BadDigest BadDigest BadDigest BadDigest", "checksum")
def a_part_with_another_checksum(bench: Bench) -> str:
    outcomes = []
    for name, size in {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32}.items():
        upload = bench.create(ChecksumAlgorithm=name)
        wrong = {f"Checksum{name}": base64.b64encode(bytes(size)).decode()}
        outcomes.append(outcome_of(partial(bench.part, upload, 1, SMALL, **wrong)).split(" ")[-1])
    return " ".join(outcomes)


@case("returned, listed, FULL_OBJECT of the whole, in HEAD", "checksum")
def crc64nvme_is_kept(bench: Bench) -> str:
    upload = bench.create(ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT")
    whole = _crc64(BIG + SMALL)
    parts, seen = [], set()
    for number, body in ((1, BIG), (2, SMALL)):
        sent = bench.client.upload_part(**upload, PartNumber=number, Body=body, ChecksumCRC64NVME=_crc64(body))
        seen.add("returned" if sent.get("ChecksumCRC64NVME") == _crc64(body) else "not returned")
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    listed = [part.get("ChecksumCRC64NVME") for part in bench.client.list_parts(**upload)["Parts"]]
    seen_listed = "listed" if listed == [_crc64(BIG), _crc64(SMALL)] else "not listed"
    done = bench.complete(upload, *parts, ChecksumType="FULL_OBJECT", ChecksumCRC64NVME=whole)
    of_whole = "of the whole" if done.get("ChecksumCRC64NVME") == whole else "absent"
    head = bench.client.head_object(**bench.place, ChecksumMode="ENABLED")
    in_head = "in HEAD" if head.get("ChecksumCRC64NVME") == whole else "not in HEAD"
    return f"{' '.join(sorted(seen))}, {seen_listed}, {done.get('ChecksumType')} {of_whole}, {in_head}"


@case("400 BadDigest, 400 InvalidRequest, ok", "checksum")
def what_is_said_of_the_whole_object_is_checked(bench: Bench) -> str:
    upload = bench.create(ChecksumAlgorithm="CRC64NVME")
    part = bench.part(upload, 1, ChecksumAlgorithm="CRC64NVME")
    kinds: list[dict[str, Any]] = [
        {"ChecksumCRC64NVME": _crc64(b"other"), "ChecksumType": "FULL_OBJECT"},
        {"MpuObjectSize": len(SMALL) + 1},
        {"ChecksumCRC64NVME": _crc64(SMALL), "ChecksumType": "FULL_OBJECT", "MpuObjectSize": len(SMALL)},
    ]
    return ", ".join(outcome_of(partial(bench.complete, upload, part, **more)) for more in kinds)


@case("400 InvalidRequest, COMPOSITE -2", "checksum")
def composite_checksums_need_those_of_the_parts(bench: Bench) -> str:
    upload = bench.create(ChecksumAlgorithm="SHA256")
    parts = []
    for number, body in ((1, BIG), (2, SMALL)):
        sha = base64.b64encode(hashlib.sha256(body).digest()).decode()
        parts.append({**bench.part(upload, number, body, ChecksumSHA256=sha), "ChecksumSHA256": sha})
    bare = [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]} for part in parts]
    refused = outcome_of(lambda: bench.complete(upload, *bare))
    if refused == "ok":
        return "ok"
    done = bench.complete(upload, *parts)
    return f"{refused}, {done.get('ChecksumType')} {done.get('ChecksumSHA256', '')[-2:]}"


# Copies


def _source(bench: Bench, body: bytes = BIG) -> dict[str, str]:
    """An object beside the case's own, as the source of a copy."""
    source = {"Bucket": bench.bucket, "Key": f"{bench.key} source+%"}
    bench.client.put_object(**source, Body=body, ContentType="video/mp4", Metadata={"a": "b"})
    return source


@case("identical, etag of parts, crc of the whole", "copy")
def parts_are_copied_from_an_object(bench: Bench) -> str:
    source = _source(bench, BIG + SMALL)
    upload = bench.create(ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT")
    parts = []
    for number, chosen in enumerate((f"bytes=0-{len(BIG) - 1}", f"bytes={len(BIG)}-{len(BIG + SMALL) - 1}"), 1):
        copied = bench.client.upload_part_copy(**upload, PartNumber=number, CopySource=source, CopySourceRange=chosen)
        parts.append({"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]})
    done = bench.complete(upload, *parts, ChecksumCRC64NVME=_crc64(BIG + SMALL), ChecksumType="FULL_OBJECT")
    md5s = hashlib.md5(hashlib.md5(BIG).digest() + hashlib.md5(SMALL).digest()).hexdigest()
    identical = "identical" if bench.body() == BIG + SMALL else "different"
    etag = "etag of parts" if done["ETag"] == f'"{md5s}-2"' else done["ETag"]
    return f"{identical}, {etag}, {'crc of the whole' if 'ChecksumCRC64NVME' in done else 'no crc'}"


@case("copied, crc of the part", "copy")
def a_copied_part_is_told_like_a_sent_one(bench: Bench) -> str:
    source, upload = _source(bench, SMALL), bench.create(ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT")
    copied = bench.client.upload_part_copy(**upload, PartNumber=3, CopySource=source)["CopyPartResult"]
    (listed,) = bench.client.list_parts(**upload)["Parts"]
    same = listed["ETag"] == copied["ETag"] == f'"{hashlib.md5(SMALL).hexdigest()}"' and listed["Size"] == len(SMALL)
    kept = {copied.get("ChecksumCRC64NVME"), listed.get("ChecksumCRC64NVME")} == {_crc64(SMALL)}
    said = "copied" if same else f"{copied['ETag']} {listed['ETag']} {listed['Size']}"
    return f"{said}, {'crc of the part' if kept else 'no crc'}"


@case("412 PreconditionFailed, 400 InvalidArgument, 400 InvalidArgument, 404 NoSuchKey, 404 NoSuchUpload", "copy")
def parts_that_cannot_be_copied(bench: Bench) -> str:
    source, upload = _source(bench, SMALL), bench.create()
    other = {"Bucket": bench.bucket, "Key": f"{bench.key} that never was"}
    copy = partial(bench.client.upload_part_copy, PartNumber=1, CopySource=source)
    return ", ".join(
        outcome_of(call)
        for call in (
            partial(copy, **upload, CopySourceIfMatch='"00000000000000000000000000000000"'),
            partial(copy, **upload, CopySourceRange=f"bytes=0-{len(SMALL)}"),
            partial(copy, **upload, CopySourceRange="bytes=5-"),
            partial(bench.client.upload_part_copy, **upload, PartNumber=1, CopySource=other),
            partial(copy, **upload | {"UploadId": "bm90aGluZw"}),
        )
    )


@case("whole video/mp4 b, whole text/plain None, 400 InvalidRequest, 404 NoSuchKey", "copy")
def objects_are_copied(bench: Bench) -> str:
    source = _source(bench, SMALL)
    seen = []
    for more in ({}, {"MetadataDirective": "REPLACE", "ContentType": "text/plain"}):
        bench.client.copy_object(**bench.place, CopySource=source, **more)
        head = bench.client.head_object(**bench.place)
        whole = "whole" if bench.body() == SMALL else "otherwise"
        seen.append(f"{whole} {head['ContentType']} {head['Metadata'].get('a')}")
    itself = outcome_of(lambda: bench.client.copy_object(**bench.place, CopySource=bench.place))
    missing = {"Bucket": bench.bucket, "Key": f"{bench.key} that never was"}
    return ", ".join([*seen, itself, outcome_of(lambda: bench.client.copy_object(**bench.place, CopySource=missing))])


# Objects and buckets


@case("ok", "object")
def keys_and_metadata_may_be_odd(bench: Bench) -> str:
    for tail in ("a b", "ü-é-日本", "%25&+=?#", "x'\"<>", "~!*()", "a//b", "tab\there"):
        key = f"{bench.key}/{tail}"
        bench.client.put_object(Bucket=bench.bucket, Key=key, Body=tail.encode(), Metadata={"of": "x"})
        read = bench.client.get_object(Bucket=bench.bucket, Key=key)
        listed = bench.client.list_objects_v2(Bucket=bench.bucket, Prefix=key).get("Contents", [])
        if read["Body"].read() != tail.encode() or [each["Key"] for each in listed] != [key]:
            return f"{tail!r} is lost"
    return "ok"


@case("0123|789|89|416 InvalidRange", "object")
def ranges_are_read(bench: Bench) -> str:
    bench.client.put_object(**bench.place, Body=b"0123456789")

    def read(text: str) -> str:
        body: bytes = bench.client.get_object(**bench.place, Range=f"bytes={text}")["Body"].read()
        return body.decode()

    return "|".join([read("0-3"), read("7-"), read("-2"), outcome_of(lambda: read("10-"))])


@case("404 NoSuchKey, 404 404, 404 NoSuchBucket, ok", "object")
def what_is_not_there(bench: Bench) -> str:
    return ", ".join(
        [
            outcome_of(lambda: bench.client.get_object(**bench.place)),
            outcome_of(lambda: bench.client.head_object(**bench.place)),
            outcome_of(lambda: bench.client.list_objects_v2(Bucket="no-such-bucket-here")),
            outcome_of(lambda: bench.client.delete_object(**bench.place)),
        ]
    )


@case("a b/|c", "object")
def objects_are_listed_in_pages(bench: Bench) -> str:
    for name in ("a", "b/1", "b/2", "c"):
        bench.client.put_object(Bucket=bench.bucket, Key=f"{bench.key}/{name}", Body=b"")
    pages: list[str] = []
    more: dict[str, str] = {}
    while True:
        page = bench.client.list_objects_v2(
            Bucket=bench.bucket, Prefix=f"{bench.key}/", Delimiter="/", MaxKeys=2, **more
        )
        found = [each["Key"] for each in page.get("Contents", [])]
        found += [each["Prefix"] for each in page.get("CommonPrefixes", [])]
        pages.append(" ".join(sorted(key.removeprefix(f"{bench.key}/") for key in found)))
        if not page["IsTruncated"]:
            return "|".join(pages)
        more = {"ContinuationToken": page["NextContinuationToken"]}


@case("409 BucketAlreadyOwnedByYou", "object")
def a_bucket_made_again(bench: Bench) -> str:
    return outcome_of(lambda: bench.client.create_bucket(Bucket=bench.bucket))


@case("404 NoSuchLifecycleConfiguration", "object")
def a_bucket_without_lifecycle(bench: Bench) -> str:
    return outcome_of(lambda: bench.client.get_bucket_lifecycle_configuration(Bucket=bench.bucket))


@case("400 BadDigest", "object")
def an_object_with_another_content_md5(bench: Bench) -> str:
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    return outcome_of(lambda: bench.client.put_object(**bench.place, Body=SMALL, ContentMD5=wrong))


# Options of objects


def _or_refusal(run: Callable[[Bench], str]) -> Callable[[Bench], str]:
    """Wrap a case so that it ends with the first refusal of a server without the feature."""

    @wraps(run)
    def attempt(bench: Bench) -> str:
        said: list[str] = []
        refusal = outcome_of(lambda: said.append(run(bench)))
        return said[0] if said else refusal

    return attempt


def _empty(bench: Bench, **options: Any) -> None:
    bench.client.put_object(**bench.place, Body=b"", **options)


@case("STANDARD_IA 2 team=a b/é,x=, none DEEP_ARCHIVE", "options")
@_or_refusal
def storage_class_and_tags_arrive_at_the_object(bench: Bench) -> str:
    upload = bench.create(StorageClass="STANDARD_IA", Tagging="team=a%20b%2F%C3%A9&x=")
    bench.complete(upload, bench.part(upload, 1))
    head, tags = bench.client.head_object(**bench.place), bench.client.get_object_tagging(**bench.place)["TagSet"]
    told_tags = ",".join(f"{tag['Key']}={tag['Value']}" for tag in tags)
    said = f"{head.get('StorageClass')} {head.get('TagCount')} {told_tags}"
    _empty(bench, StorageClass="STANDARD")
    standard = bench.client.head_object(**bench.place).get("StorageClass", "none")
    _empty(bench, StorageClass="DEEP_ARCHIVE")
    return f"{said}, {standard} {bench.client.head_object(**bench.place).get('StorageClass')}"


@case("400 InvalidStorageClass, 400 InvalidStorageClass", "options")
def a_storage_class_that_is_none(bench: Bench) -> str:
    return ", ".join(
        outcome_of(partial(do, StorageClass="GLACIER-IR")) for do in (bench.create, partial(_empty, bench))
    )


@case(
    "400 InvalidTag, 400 InvalidTag, 400 InvalidTag, 400 InvalidTag, 400 InvalidArgument, 400 BadRequest, ok", "options"
)
def tags_that_are_none(bench: Bench) -> str:
    headers = [
        "a%23b=c",
        "=c",
        "aws%3Ax=c",
        f"{'k' * 129}=v",
        "a=b&a=c",
        "&".join(f"k{n}=v" for n in range(11)),
        f"{'k' * 128}={'v' * 256}&only-a-key",
    ]
    return ", ".join(outcome_of(partial(bench.create, Tagging=header)) for header in headers)


@case("400 InvalidArgument, 400 InvalidArgument, 400 InvalidArgument", "options")
def encryption_that_is_none(bench: Bench) -> str:
    wrong: list[dict[str, Any]] = [
        {"ServerSideEncryption": "AES512"},
        {"ServerSideEncryption": "AES256", "SSEKMSKeyId": "alias/x"},
        {"ServerSideEncryption": "aws:kms:dsse", "BucketKeyEnabled": True},
    ]
    return ", ".join(outcome_of(partial(bench.create, **options)) for options in wrong)


@case("AES256 part AES256 done AES256 object AES256", "options")
@_or_refusal
def aes256_is_said_with_each_answer(bench: Bench) -> str:
    return _encrypted(bench, ServerSideEncryption="AES256")[0]


@case("aws:kms part aws:kms done aws:kms object aws:kms key True, etags opaque opaque opaque, whole", "options")
@_or_refusal
def with_kms_etags_are_no_md5s(bench: Bench) -> str:
    said, etags = _encrypted(bench, ServerSideEncryption="aws:kms", SSEKMSKeyId="alias/x", BucketKeyEnabled=True)
    _empty(bench, ServerSideEncryption="aws:kms:dsse")
    etags.append(bench.client.head_object(**bench.place)["ETag"].strip('"'))
    single, whole = hashlib.md5(SMALL).hexdigest(), f"{hashlib.md5(hashlib.md5(SMALL).digest()).hexdigest()}-1"
    opaque = ["md5" if etag in {single, whole, hashlib.md5().hexdigest()} else "opaque" for etag in etags]
    return f"{said}, etags {' '.join(opaque)}, whole"


def _encrypted(bench: Bench, **options: Any) -> tuple[str, list[str]]:
    """Make an object of one part; return the encryption headers on the way, and the ETags of part and object."""
    created = bench.client.create_multipart_upload(**bench.place, **options)
    upload = {**bench.place, "UploadId": created["UploadId"]}
    sent = bench.client.upload_part(**upload, PartNumber=1, Body=SMALL)
    done = bench.complete(upload, {"PartNumber": 1, "ETag": sent["ETag"]})
    head = bench.client.head_object(**bench.place)
    assert bench.body() == SMALL
    said = " ".join(
        f"{name}{answer.get('ServerSideEncryption')}"
        for name, answer in {"": created, "part ": sent, "done ": done, "object ": head}.items()
    )
    key = f" key {'alias/x' in head['SSEKMSKeyId'] and head.get('BucketKeyEnabled')}" if "SSEKMSKeyId" in head else ""
    return f"{said}{key}", [sent["ETag"].strip('"'), done["ETag"].strip('"')]


@case("400 InvalidArgument, 400 AccessControlListNotSupported, ok", "options")
def an_acl_where_the_bucket_has_none(bench: Bench) -> str:
    acls = ["everybody", "public-read", "bucket-owner-full-control"]
    return ", ".join(outcome_of(partial(bench.create, ACL=acl)) for acl in acls)


@case("FULL_CONTROL, AllUsers READ", "options")
def an_acl_arrives_where_the_bucket_has_some(bench: Bench) -> str:
    bucket = f"acls-{uuid.uuid4().hex[:12]}"
    bench.client.create_bucket(Bucket=bucket, ObjectOwnership="ObjectWriter")
    bench.client.put_object(Bucket=bucket, Key="k", Body=b"", ACL="public-read")
    granted = bench.client.get_object_acl(Bucket=bucket, Key="k")["Grants"]
    names = [f"{g['Grantee'].get('URI', '').rpartition('/')[2]} {g['Permission']}".strip() for g in granted]
    return ", ".join(sorted(names, key=len, reverse=True)[::-1])


@case("403 InvalidObjectState, 200", "options")
@_or_refusal
def what_is_archived_is_not_read(bench: Bench) -> str:
    _empty(bench, StorageClass="GLACIER")
    head = bench.client.head_object(**bench.place)["ResponseMetadata"]["HTTPStatusCode"]
    return f"{outcome_of(lambda: bench.client.get_object(**bench.place))}, {head}"


# Signatures


@case("403 SignatureDoesNotMatch", "signature")
def another_secret(bench: Bench) -> str:
    client = bench.endpoint.client(aws_secret_access_key="wrong")
    try:
        return outcome_of(lambda: client.get_object(**bench.place))
    finally:
        client.close()


@case("403 InvalidAccessKeyId", "signature")
def a_key_id_that_nobody_has(bench: Bench) -> str:
    client = bench.endpoint.client(aws_access_key_id="nobody")
    try:
        return outcome_of(lambda: client.get_object(**bench.place))
    finally:
        client.close()


@case("400 AuthorizationHeaderMalformed", "signature")
def another_region(bench: Bench) -> str:
    return _signed(bench, region="eu-central-1")


@case("403 RequestTimeTooSkewed, 403 RequestTimeTooSkewed, 200", "signature")
def another_time(bench: Bench) -> str:
    return ", ".join(_signed(bench, minutes=minutes) for minutes in (-16, 16, -14))


@case("400 XAmzContentSHA256Mismatch", "signature")
def another_body_than_was_signed(bench: Bench) -> str:
    return _signed(bench, send_body=b"other bytes, but of the same length"[: len(SMALL)])


@case("403 SignatureDoesNotMatch", "signature")
def a_header_changed_after_signing(bench: Bench) -> str:
    return _signed(bench, headers={"x-amz-meta-a": "1"}, send_headers={"x-amz-meta-a": "2"})


@case("403 AccessDenied", "signature")
def a_header_that_was_not_signed(bench: Bench) -> str:
    return _signed(bench, send_headers={"x-amz-meta-a": "1"})


@case("403 AccessDenied", "signature")
def nothing_signed(bench: Bench) -> str:
    return _sent(httpx.Request("GET", f"{bench.endpoint.url}/{bench.bucket}/{bench.key}"))


@case("200, 403 SignatureDoesNotMatch, 403 AccessDenied", "signature")
def presigned_urls(bench: Bench) -> str:
    bench.client.put_object(**bench.place, Body=SMALL)
    # By default boto3 presigns by version 2 for us-east-1.
    version_4 = bench.endpoint.client(config=botocore.config.Config(signature_version="s3v4"))
    url = version_4.generate_presigned_url("get_object", Params=bench.place, ExpiresIn=60)
    past = datetime.now(UTC) - timedelta(seconds=90)
    # Where awscrt is installed, botocore presigns by it.
    with mock.patch.object(botocore.crt.auth, "get_current_datetime", return_value=past):
        expired = version_4.generate_presigned_url("get_object", Params=bench.place, ExpiresIn=60)
    version_4.close()
    tampered = url.replace(bench.key.partition("/")[2][:8], "00000000")
    return ", ".join(_sent(httpx.Request("GET", each)) for each in (url, tampered, expired))


def _crc64(data: bytes) -> str:
    return base64.b64encode(crt.crc64nvme(data).to_bytes(8, "big")).decode()


def _signed(
    bench: Bench,
    *,
    region: str | None = None,
    minutes: int = 0,
    headers: dict[str, str] | None = None,
    send_headers: dict[str, str] | None = None,
    send_body: bytes = SMALL,
) -> str:
    """A PutObject signed by botocore and then changed on the way."""
    url = f"{bench.endpoint.url}/{bench.bucket}/{bench.key}"
    request = botocore.awsrequest.AWSRequest("PUT", url, data=SMALL, headers=headers or {})
    credentials = botocore.credentials.Credentials(bench.endpoint.access_key, bench.endpoint.secret_key)
    at = datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=minutes)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=at):
        request.context["payload_signing_enabled"] = True
        botocore.auth.S3SigV4Auth(credentials, "s3", region or bench.endpoint.region).add_auth(request)
    return _sent(httpx.Request("PUT", url, headers=dict(request.headers) | (send_headers or {}), content=send_body))


def _sent(request: httpx.Request) -> str:
    with httpx.Client(timeout=60) as client:
        reply = client.send(request)
    code = reply.text.partition("<Code>")[2].partition("</Code>")[0]
    return f"{reply.status_code} {code}".strip()
