"""Options of objects: valid settings, the headers, their signature; what an ETag proves."""

from __future__ import annotations

import hashlib
from urllib.parse import parse_qsl

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3.scripted_store import ScriptedStore, client_of, created, part_ack

from cef_trio.s3.etags import is_md5, is_opaque, looks_like_md5, multipart_etag
from cef_trio.s3_endpoint.options import read_tagging
from cef_trio.settings.model import Settings
from cef_trio.settings.object_options import (
    AWS_STORAGE_CLASSES,
    CANNED_ACLS,
    CONTENT_TYPES,
    ENCRYPTIONS,
    MAX_TAG_KEY,
    MAX_TAG_VALUE,
    MAX_TAGS,
    ObjectOptions,
    check_content_type,
    check_kms_key_id,
    check_storage_class,
    parse_tags,
    tagging,
    why_unfit,
)
from cef_trio.settings.reference import literal_values

SSE = "x-amz-server-side-encryption"
MD5 = hashlib.md5(b"x").hexdigest()
ALL = ObjectOptions(
    storage_class="GLACIER",
    encryption="aws:kms",
    kms_key_id="alias/x",
    bucket_key=False,
    tags=(("a", "b c"), ("é", "")),
    acl="private",
)
TAGS = st.lists(
    st.tuples(
        st.text(st.characters(categories=("L", "N"), include_characters="+-._:/@"), min_size=1, max_size=40),
        st.text(st.characters(categories=("L", "N"), include_characters="+-=._:/@"), max_size=80),
    ).filter(lambda tag: not tag[0].lower().startswith("aws:")),
    max_size=MAX_TAGS,
    unique_by=lambda tag: tag[0],
)

# ---- headers ---------------------------------------------------------------------------------------------------------


def test_every_option_is_a_header_of_a_recording_and_the_metadata_has_no_storage_class() -> None:
    shared = {
        SSE: "aws:kms",
        f"{SSE}-aws-kms-key-id": "alias/x",
        f"{SSE}-bucket-key-enabled": "false",
        "x-amz-tagging": "a=b%20c&%C3%A9=",
        "x-amz-acl": "private",
    }
    assert ALL.for_metadata() == shared
    assert ALL.for_recording() == {**shared, "x-amz-storage-class": "GLACIER"}
    assert ObjectOptions().for_recording() == ObjectOptions().for_metadata() == {}


async def test_options_are_sent_and_signed_with_the_creation_and_with_an_object() -> None:
    store = ScriptedStore(created(), part_ack(b"data"))
    async with client_of(store, options=ALL) as client:
        given = client.options.for_recording()
        await client.create_multipart_upload("k", metadata={}, headers=given)
        await client.put_object("k", b"data", content_type="x/y", headers=given)
    for request in store.requests:
        signed = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
        for name, value in given.items():
            assert request.headers[name] == value
            assert name in signed


@given(TAGS)
def test_tags_go_through_a_url_and_back_to_client_and_server_alike(tags: list[tuple[str, str]]) -> None:
    assert parse_tags(",".join(f"{key}={value}" for key, value in tags)) == tuple(tags)
    assert tagging(tags).isascii()
    assert parse_qsl(tagging(tags), keep_blank_values=True) == tags
    assert read_tagging(tagging(tags)) == tags


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a", "has no '='"),
        ("=b", "has no key"),
        ("aws:a=b", "AWS's own"),
        ("AWS:a=b", "AWS's own"),
        (f"{'k' * (MAX_TAG_KEY + 1)}=b", "at most 128"),
        (f"{'🎥' * (MAX_TAG_KEY // 2 + 1)}=b", "at most 128"),
        (f"a={'v' * (MAX_TAG_VALUE + 1)}", "at most 256"),
        ("a=b;c", "may contain letters"),
        ("a\n=b\nc", "may contain letters"),
        ("a=1,a=2", "given twice"),
        (",".join(f"k{number}=v" for number in range(MAX_TAGS + 1)), "at most 10"),
    ],
)
def test_tags_that_s3_would_refuse_are_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse_tags(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", " , ", f"{'k' * MAX_TAG_KEY}={'v' * MAX_TAG_VALUE}", " a = b c ,d=", "a=b=c"])
def test_tags_that_s3_takes_are_taken(text: str) -> None:
    tags = parse_tags(text)
    assert read_tagging(tagging(tags)) == list(tags)


@pytest.mark.parametrize("name", ["", " ", "GLACIER IR", "a" * 65, "x\ny", "é"])
def test_what_cannot_be_a_storage_class_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="takes a storage class"):
        check_storage_class(name)


@pytest.mark.parametrize("name", ["mp4", "video/", "video/mp4\r\nx-amz-acl: public-read", "video/mp4;", "a b/c", "é/x"])
def test_what_is_no_content_type_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="takes a content type"):
        check_content_type(name)


@pytest.mark.parametrize("name", ["video/mp4", "application/x-mpegURL", 'video/mp4; codecs="avc1.42E01E, mp4a.40.2"'])
def test_content_types_are_taken(name: str) -> None:
    assert check_content_type(name) == name


@pytest.mark.parametrize("name", ["", "a b", "x\n"])
def test_what_cannot_be_a_kms_key_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="takes a KMS key"):
        check_kms_key_id(name)


@pytest.mark.parametrize("encryption", [None, *ENCRYPTIONS])
@pytest.mark.parametrize("key", [None, "alias/x"])
@pytest.mark.parametrize("bucket_key", [None, True, False])
def test_keys_go_with_kms_only_and_bucket_keys_with_its_simple_form_only(
    encryption: str | None, key: str | None, bucket_key: bool | None
) -> None:
    why = why_unfit(ObjectOptions(encryption=encryption, kms_key_id=key, bucket_key=bucket_key), at_aws=True)
    kms = encryption in {"aws:kms", "aws:kms:dsse"}
    assert (why is None) == ((key is None or kms) and (bucket_key is None or encryption == "aws:kms"))
    assert why is None or why.startswith("S3_SSE_")


def test_only_other_stores_than_aws_have_classes_of_their_own() -> None:
    cold = ObjectOptions(storage_class="COLD")
    assert why_unfit(cold, at_aws=False) is None
    assert "AWS has no storage class 'COLD'" in str(why_unfit(cold, at_aws=True))
    assert why_unfit(ObjectOptions(storage_class="GLACIER_IR"), at_aws=True) is None


def test_the_values_are_those_of_aws() -> None:
    shapes = botocore.session.get_session().get_service_model("s3").shape_for
    asked_for_by_us = {name for name in shapes("StorageClass").enum if not name.startswith("AWS_BACKUP_")}
    assert set(AWS_STORAGE_CLASSES) == asked_for_by_us
    assert set(CANNED_ACLS) == set(shapes("ObjectCannedACL").enum)
    assert set(ENCRYPTIONS) == set(shapes("ServerSideEncryption").enum) - {"aws:fsx", "aws:backup"}  # of other services


def test_the_values_of_settings_are_sent() -> None:
    assert literal_values(Settings.model_fields["s3_acl"].annotation) == CANNED_ACLS
    assert literal_values(Settings.model_fields["s3_sse"].annotation) == ENCRYPTIONS


# ---- what an ETag proves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("etag", [MD5, MD5.upper(), MD5[:-1], MD5 + "0", f"{MD5}-1", "g" * 32, "", "é" * 32])
@pytest.mark.parametrize("encryption", [None, "AES256", "aws:kms", "aws:kms:dsse", "aws:fsx"])
@pytest.mark.parametrize("customer", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_an_etag_is_an_md5_only_by_its_form_and_without_kms(
    etag: str, encryption: str | None, customer: bool, asked: bool
) -> None:
    answer = {SSE: encryption} if encryption else {}
    answer |= {f"{SSE}-customer-algorithm": "AES256"} if customer else {}
    assert looks_like_md5(etag) == (etag.lower() == MD5)
    plain = encryption in {None, "AES256"} and not customer and not asked
    assert is_opaque(answer, kms_requested=asked) == (not plain)
    assert is_md5(etag, answer, kms_requested=asked) == (plain and etag.lower() == MD5)


def test_the_etag_of_parts_is_that_of_their_md5s_and_unknown_without_one() -> None:
    both = hashlib.md5(bytes.fromhex(MD5) * 2).hexdigest()
    assert multipart_etag([MD5, MD5.upper()]) == f"{both}-2"
    assert multipart_etag([MD5, f"{MD5}-1"]) is None
    assert multipart_etag([MD5, "opaque"]) is None


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/w/a.mp4", "video/mp4"),
        ("/w/a.b.MKV", "video/x-matroska"),
        ("/w/a.ts", "video/mp2t"),
        ("/w/a.mxf", "application/mxf"),
        ("/w/x.ts/a", "application/octet-stream"),
        ("/w/a.\udcff", "application/octet-stream"),
    ],
)
def test_the_content_type_follows_the_extension_unless_it_is_set(path: str, content_type: str) -> None:
    assert ObjectOptions().content_type_of(path) == content_type
    assert ObjectOptions(content_type="a/b").content_type_of(path) == "a/b"


def test_every_content_type_of_the_table_may_be_sent() -> None:
    assert all(check_content_type(one) == one for one in (*CONTENT_TYPES.values(), "auto"))
    assert all(extension == extension.lower() for extension in CONTENT_TYPES)
