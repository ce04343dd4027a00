"""The pure modules: checksums, XML, addresses, settings."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3.scripted_store import CREDENTIALS

from cef_trio.s3.address import bucket_address
from cef_trio.s3.checksums import (
    CHECKSUMS,
    combine_crc64nvme,
    crc64nvme,
    crc64nvme_from_base64,
    crc64nvme_to_base64,
    to_base64,
)
from cef_trio.s3.config import Addressing, S3Config
from cef_trio.s3.credentials import StaticCredentials
from cef_trio.s3.model import ChecksumAlgorithm, ListedPart, ListedUpload, PartToComplete
from cef_trio.s3.xml import (
    MAX_DEPTH,
    NAMESPACE,
    CompleteResult,
    XmlError,
    complete_multipart_upload,
    create_bucket_configuration,
    parse_complete_result,
    parse_parts,
    parse_upload_id,
    parse_uploads,
    parse_xml,
    unquoted,
)

# The check values of the CRC catalogue (https://reveng.sourceforge.io/crc-catalogue/) for "123456789".
CHECK = b"123456789"


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [
        (ChecksumAlgorithm.CRC64NVME, "ae8b14860a799888"),
        (ChecksumAlgorithm.CRC32C, "e3069283"),
        (ChecksumAlgorithm.SHA256, hashlib.sha256(CHECK).hexdigest()),
        (ChecksumAlgorithm.MD5, hashlib.md5(CHECK).hexdigest()),
    ],
)
def test_every_checksum_agrees_with_its_published_check_value(algorithm: ChecksumAlgorithm, digest: str) -> None:
    calculator = CHECKSUMS[algorithm].calculator()
    for at in range(len(CHECK)):
        calculator.update(CHECK[at : at + 1])
    assert calculator.digest().hex() == digest


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_a_whole_objects_crc_follows_from_its_parts(parts: list[bytes]) -> None:
    assert combine_crc64nvme((crc64nvme(part), len(part)) for part in parts) == crc64nvme(b"".join(parts))


@given(st.integers(0, 2**64 - 1))
def test_a_crc_is_unchanged_by_encoding_and_decoding(value: int) -> None:
    assert crc64nvme_from_base64(crc64nvme_to_base64(value)) == value


@pytest.mark.parametrize("text", [None, "", "AAAAAA==", "not base64!", "rosUhgp5mIg=-2", "rosUhgp5mIg"])
def test_an_invalid_crc64_is_none(text: str | None) -> None:
    assert crc64nvme_from_base64(text) is None


def test_base64_is_of_the_digest_not_of_its_hex() -> None:
    assert base64.b64decode(to_base64(b"\x00\xff")) == b"\x00\xff"


PARTS = [PartToComplete(1, 'a"<&', 5, 7, "c2hh"), PartToComplete(2, "b", 5, 8, None)]


@pytest.mark.parametrize(
    ("checksum", "element"),
    [
        (ChecksumAlgorithm.CRC64NVME, "ChecksumCRC64NVME"),
        (ChecksumAlgorithm.SHA256, "ChecksumSHA256"),
        (ChecksumAlgorithm.CRC32C, "ChecksumCRC32C"),
        (ChecksumAlgorithm.MD5, None),
    ],
)
def test_complete_lists_numbers_etags_and_what_the_checksum_needs(
    checksum: ChecksumAlgorithm, element: str | None
) -> None:
    root = ElementTree.fromstring(complete_multipart_upload(PARTS, checksum))
    name = f"{{{NAMESPACE}}}"
    parts = root.findall(f"{name}Part")
    assert [part.findtext(f"{name}PartNumber") for part in parts] == ["1", "2"]
    assert [part.findtext(f"{name}ETag") for part in parts] == ['"a"<&"', '"b"']
    expected = {None: [], "ChecksumCRC64NVME": [crc64nvme_to_base64(7), crc64nvme_to_base64(8)]}.get(element, ["c2hh"])
    found = [child.text for part in parts for child in part if child.tag.startswith(f"{name}Checksum")]
    assert found == expected
    assert all(f"{name}{element}" == c.tag for part in parts for c in part if "Checksum" in c.tag)


def test_a_bucket_in_us_east_1_is_created_without_naming_the_region() -> None:
    assert create_bucket_configuration("us-east-1") == b""
    assert b"<LocationConstraint>eu-west-1</LocationConstraint>" in create_bucket_configuration("eu-west-1")


@pytest.mark.parametrize("namespace", ["", f' xmlns="{NAMESPACE}"', ' xmlns="http://other/"'])
def test_answers_are_read_with_and_without_a_namespace(namespace: str) -> None:
    parts = f"""<?xml version="1.0" encoding="UTF-8"?>
    <ListPartsResult{namespace}><Bucket>b</Bucket><IsTruncated>true</IsTruncated>
    <NextPartNumberMarker>2</NextPartNumberMarker>
    <Part><PartNumber>1</PartNumber><ETag>&quot;e1&quot;</ETag><Size>5</Size>
    <ChecksumCRC64NVME>rosUhgp5mIg=</ChecksumCRC64NVME></Part>
    <Part><PartNumber>2</PartNumber><ETag>"e2"</ETag><Size>6</Size><ChecksumSHA256>c2hh</ChecksumSHA256></Part>
    </ListPartsResult>"""
    page = parse_parts(parts.encode())
    assert page.parts == (
        ListedPart(1, 5, "e1", 0xAE8B14860A799888, None),
        ListedPart(2, 6, "e2", None, "c2hh", ChecksumAlgorithm.SHA256),
    )
    assert page.next_marker == "2"
    created = f"<InitiateMultipartUploadResult{namespace}><UploadId>u&amp;1</UploadId></InitiateMultipartUploadResult>"
    assert parse_upload_id(created.encode()) == "u&1"


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=30))
def test_any_key_is_decoded_from_an_encoded_listing(key: str) -> None:
    from urllib.parse import quote, quote_plus

    for encode in (quote, quote_plus):
        body = f"""<ListMultipartUploadsResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
        <NextKeyMarker>{encode(key)}</NextKeyMarker><NextUploadIdMarker>u</NextUploadIdMarker>
        <Upload><Key>{encode(key)}</Key><UploadId>u</UploadId><Initiated>2026-11-23T12:00:00.000Z</Initiated></Upload>
        </ListMultipartUploadsResult>"""
        page = parse_uploads(body.encode())
        assert page.uploads == (ListedUpload(key, "u", datetime(2026, 11, 23, 12, tzinfo=UTC)),)
        assert page.next_markers == (key, "u")


def test_a_listing_that_is_not_encoded_is_taken_as_it_stands() -> None:
    body = b"""<ListMultipartUploadsResult><Upload><Key>a+b%20c</Key><UploadId>u</UploadId>
    <Initiated>2026-11-23T12:00:00Z</Initiated></Upload></ListMultipartUploadsResult>"""
    assert parse_uploads(body).uploads[0].key == "a+b%20c"


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("<ETag>&quot;abc-2&quot;</ETag>", CompleteResult("abc-2", None)),
        ("<ETag/>", CompleteResult(None, None)),
        ("<ETag>&quot;&quot;</ETag>", CompleteResult(None, None)),
        ("", CompleteResult(None, None)),
        (
            "<ETag>e</ETag><ChecksumCRC64NVME>rosUhgp5mIg=</ChecksumCRC64NVME><ChecksumType>FULL_OBJECT</ChecksumType>",
            CompleteResult("e", 0xAE8B14860A799888),
        ),
        (
            "<ETag>e</ETag><ChecksumCRC64NVME>rosUhgp5mIg=</ChecksumCRC64NVME><ChecksumType>COMPOSITE</ChecksumType>",
            CompleteResult("e", None),
        ),
    ],
)
def test_a_response_of_complete_may_lack_any_field(inner: str, expected: CompleteResult) -> None:
    body = f"   \n\n  <?xml version='1.0'?>  <CompleteMultipartUploadResult>{inner}</CompleteMultipartUploadResult>\n"
    assert parse_complete_result(body.encode()) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"<CompleteMultipartUploadResult><ETag>cut",
        b"<html></html>",
        b"<Error><Code>InternalError</Code></Error>",
        b"<!DOCTYPE a><CompleteMultipartUploadResult/>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><CompleteMultipartUploadResult>&b;</CompleteMultipartUploadResult>",
        b"<CompleteMultipartUploadResult>&b;</CompleteMultipartUploadResult>",
        b"<?xml version='1.0' encoding='nonsense'?><CompleteMultipartUploadResult/>",
        b"\xff\xfe<",
    ],
)
def test_documents_that_are_not_s3s_are_refused(body: bytes) -> None:
    with pytest.raises(XmlError):
        parse_complete_result(body)


@given(st.binary(max_size=300))
def test_any_bytes_are_xml_or_an_xml_error(body: bytes) -> None:
    with suppress(XmlError):
        parse_xml(body)


def test_depth_is_limited() -> None:
    parse_xml(b"<a>" * MAX_DEPTH + b"</a>" * MAX_DEPTH)
    with pytest.raises(XmlError, match="deep"):
        parse_xml(b"<a>" * (MAX_DEPTH + 1) + b"</a>" * (MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "body",
    [
        b"<ListPartsResult><Part><PartNumber>x</PartNumber><ETag>e</ETag><Size>1</Size></Part></ListPartsResult>",
        b"<ListPartsResult><Part><PartNumber>1</PartNumber><Size>1</Size></Part></ListPartsResult>",
    ],
)
def test_a_part_that_makes_no_sense_is_an_xml_error(body: bytes) -> None:
    with pytest.raises(XmlError):
        parse_parts(body)


@pytest.mark.parametrize(
    ("text", "etag"), [('"a"', "a"), ("a", "a"), ('W/"a"', "a"), ("", None), ('""', None), (None, None)]
)
def test_an_etag_is_returned_without_quotes(text: str | None, etag: str | None) -> None:
    assert unquoted(text) == etag


@pytest.mark.parametrize(
    ("bucket", "region", "endpoint", "addressing", "origin", "path"),
    [
        ("rec", "eu-west-1", None, "auto", "https://rec.s3.eu-west-1.amazonaws.com", "/k"),
        ("rec", "cn-north-1", None, "auto", "https://rec.s3.cn-north-1.amazonaws.com.cn", "/k"),
        ("my.rec", "eu-west-1", None, "auto", "https://s3.eu-west-1.amazonaws.com", "/my.rec/k"),
        ("rec", "eu-west-1", None, "path", "https://s3.eu-west-1.amazonaws.com", "/rec/k"),
        ("rec", "x", "http://127.0.0.1:9000", "auto", "http://127.0.0.1:9000", "/rec/k"),
        ("rec", "x", "http://[::1]:9000/", "auto", "http://[::1]:9000", "/rec/k"),
        ("rec", "x", "https://S3.Test:443", "virtual", "https://rec.s3.test", "/k"),
        ("rec", "x", "http://s3.test:80/pre fix/", "auto", "http://s3.test", "/pre%20fix/rec/k"),
        ("rec", "x", "https://s3.test/prefix", "virtual", "https://rec.s3.test", "/prefix/k"),
    ],
)
def test_a_bucket_is_addressed_where_it_is(
    *, bucket: str, region: str, endpoint: str | None, addressing: str, origin: str, path: str
) -> None:
    address = bucket_address(bucket, region=region, endpoint_url=endpoint, addressing=Addressing(addressing))
    assert address.origin == origin
    assert address.path("k") == path


def test_a_bucket_itself_has_a_path() -> None:
    assert bucket_address("rec", region="r").path(None) == "/"
    assert bucket_address("rec", region="r", endpoint_url="http://h").path(None) == "/rec"


@pytest.mark.parametrize(
    "endpoint",
    ["s3.test", "ftp://s3.test", "http://", "http://s3.test/?q", "http://user:hunter2@s3.test", "http://h:x"],
)
def test_an_invalid_endpoint_is_refused_without_quoting_its_password(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        bucket_address("rec", region="r", endpoint_url=endpoint)
    assert "hunter2" not in str(caught.value)


def test_a_bucket_that_is_no_host_name_cannot_be_addressed_as_one() -> None:
    with pytest.raises(ValueError, match="S3_ADDRESSING=path"):
        bucket_address("my.rec", region="r", addressing=Addressing.VIRTUAL)


@pytest.mark.parametrize(
    "wrong", [{"read_timeout_seconds": 0.0}, {"write_timeout_seconds": float("inf")}, {"max_connections": 0}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"not"):
        S3Config(bucket="b", credentials=StaticCredentials(CREDENTIALS), **wrong)  # type: ignore[arg-type]
