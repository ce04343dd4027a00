"""Classification of S3's errors, and the messages for operators."""

from __future__ import annotations

import ssl
from dataclasses import astuple
from datetime import timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from s3.scripted_store import NOW, SECRET, TOKEN, Passes, Reply, ScriptedStore, client_of, error_reply

from cef_trio.exceptions import S3OperationError
from cef_trio.http import parse_http_date, parse_retry_after
from cef_trio.s3.errors import (
    HINTS,
    PERMANENT,
    TRANSIENT,
    ErrorBody,
    error_from_response,
    parse_error_body,
    s3_error_is_transient,
)

DATE = "Mon, 23 Nov 2026 12:00:00 GMT"


def refused(status: int, body: bytes = b"", **headers: str) -> S3OperationError:
    return error_from_response(
        "upload_part",
        status=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=body,
        now=NOW,
        bucket="recordings",
        key="k.mp4",
        part_number=3,
    )


def test_no_code_is_both_transient_and_permanent() -> None:
    assert not TRANSIENT & PERMANENT
    assert set(HINTS) <= TRANSIENT | PERMANENT


@pytest.mark.parametrize(
    ("code", "status", "transient"),
    [
        ("SlowDown", 503, True),
        ("InternalError", 500, True),
        ("InternalError", 200, True),
        ("RequestTimeout", 400, True),
        ("BadDigest", 400, True),
        ("AccessDenied", 403, False),
        ("NoSuchBucket", 404, False),
        ("SignatureDoesNotMatch", 403, False),
        ("EntityTooLarge", 400, False),
        ("NotImplemented", 501, False),
        ("WordNobodyKnows", 500, True),
        ("WordNobodyKnows", 502, True),
        ("WordNobodyKnows", 429, True),
        ("WordNobodyKnows", 408, True),
        ("WordNobodyKnows", 400, False),
        ("WordNobodyKnows", 501, False),
        (None, None, True),
    ],
)
def test_codes_and_then_statuses_decide_whether_an_error_is_transient(
    code: str | None, status: int | None, transient: bool
) -> None:
    assert s3_error_is_transient(code, status) is transient


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body><h1>502 Bad Gateway</h1></body></html>",
        b"<html><br>",
        b"\x00\xff\xfe",
        b"<Error><Code>Cut",
        b"{}",
        b"<!DOCTYPE lolz [<!ENTITY lol 'lol'><!ENTITY lol2 '&lol;&lol;'>]><Error><Code>&lol2;</Code></Error>",
        b"<!DOCTYPE e [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><Error><Message>&x;</Message></Error>",
        b"<a>" * 100_000,
    ],
)
def test_a_body_that_is_not_an_s3_error_is_classified_by_its_status(body: bytes) -> None:
    assert parse_error_body(body) == ErrorBody()
    assert refused(502, body).transient
    assert not refused(403, body).transient


@given(st.binary(max_size=300))
def test_any_body_at_all_is_tolerated(body: bytes) -> None:
    assert all(text is None or text.isprintable() for text in astuple(parse_error_body(body)))


def test_the_error_has_code_status_ids_and_hint() -> None:
    body = b"""<?xml version="1.0"?><Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>AccessDenied</Code>
    <Message>Access\n Denied\x1b</Message><RequestId>4442587FB7D0A2F9</RequestId></Error>""".replace(b"\x1b", b"")
    error = refused(403, body)
    assert (error.code, error.status, error.request_id) == ("AccessDenied", 403, "4442587FB7D0A2F9")
    assert (error.bucket, error.key, error.part_number) == ("recordings", "k.mp4", 3)
    text = str(error)
    assert text.startswith("S3 operation 'upload_part' failed: AccessDenied (HTTP 403): Access Denied; ")
    assert "s3:PutObject" in text
    assert "'recordings'" in text
    assert "part 3" in text


def test_untrusted_text_becomes_one_short_printable_line() -> None:
    body = b"<Error><Code>X</Code><Message>" + "a\n\u202e".encode() * 1000 + b"</Message></Error>"
    text = str(refused(400, body))
    assert text.isprintable()
    assert len(text) < 500


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (
            301,
            b"<Error><Code>PermanentRedirect</Code><Endpoint>b.s3-eu-west-1.amazonaws.com</Endpoint></Error>",
            "eu-west-1",
        ),
        (400, b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>", None),
        (301, b"", "eu-west-1"),
        (400, b"", "eu-west-1"),
    ],
)
def test_the_error_for_a_bucket_in_another_region_names_the_region_to_set(
    status: int, body: bytes, headers: str | None
) -> None:
    error = refused(status, body, **({"x_amz_bucket_region": headers} if headers else {}))
    assert "S3_REGION_NAME=eu-west-1" in str(error)
    assert not error.transient


@pytest.mark.parametrize("code", ["AccessDenied", "NoSuchBucket", "SignatureDoesNotMatch", "InvalidAccessKeyId"])
def test_common_mistakes_come_with_what_to_do(code: str) -> None:
    assert HINTS[code] in str(refused(403, f"<Error><Code>{code}</Code></Error>".encode()))


@pytest.mark.parametrize("code", ["QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "QuotaOfSomeStore"])
def test_a_quota_of_any_name_comes_with_what_to_do(code: str) -> None:
    error = refused(400, f"<Error><Code>{code}</Code></Error>".encode())
    assert (error.over_quota, error.rejected) == (True, True)
    assert HINTS["QuotaExceeded"] in str(error)


def test_a_quota_that_has_the_code_of_a_missing_permission_is_a_quota() -> None:
    """Garage."""
    says = "Forbidden: Bucket size quota is reached, maximum total size of objects for this bucket: 100"
    error = refused(403, f"<Error><Code>AccessDenied</Code><Message>{says}</Message></Error>".encode())
    assert error.over_quota
    assert says in str(error)
    assert HINTS["QuotaExceeded"] in str(error)
    assert not refused(403, b"<Error><Code>AccessDenied</Code></Error>").over_quota


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "AccessDenied",
            "Cannot upload files, storage cap exceeded. See the Caps &amp; Alerts page to increase your cap.",
        ),
        ("StorageLimitExceeded", "You have reached your project storage limit."),
        ("SegmentsLimitExceeded", "You have reached your project segment limit."),
        ("ServiceQuotaExceededException", "You have reached a limit."),
    ],
)
def test_a_quota_is_known_by_the_words_of_backblaze_and_storj_too(code: str, says: str) -> None:
    error = refused(403, f"<Error><Code>{code}</Code><Message>{says}</Message></Error>".encode())
    assert (error.over_quota, error.rejected) == (True, True)
    assert HINTS["QuotaExceeded"] in str(error)


TOO_LARGE = b"<Error><Code>EntityTooLarge</Code><Message>Your proposed upload exceeds the maximum</Message></Error>"
GIB = 1024**3


@pytest.mark.parametrize(
    ("operation", "largest"),
    [("upload_part", 5 * GIB), ("put_recording", 5 * GIB), ("complete_multipart_upload", 5 * 1024 * GIB)],
)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(400, TOO_LARGE, id="Swift"),
        pytest.param(413, TOO_LARGE, id="with S3's XML"),
        pytest.param(413, b"<Error><Code>PayloadTooLarge</Code></Error>", id="another code"),
        pytest.param(413, b"", id="without a body"),
    ],
)
def test_p6_a_body_within_s3s_limits_that_is_too_large_is_a_quota_or_a_limit_and_no_fault_of_the_recording(
    operation: str, largest: int, status: int, body: bytes
) -> None:
    """Swift says so of a full quota; larger ones stay final."""

    def refused_of(size_bytes: int) -> S3OperationError:
        return error_from_response(operation, status=status, headers={}, body=body, now=NOW, size_bytes=size_bytes)

    error = refused_of(largest)
    assert (error.over_quota, error.rejected, error.transient) == (True, True, False)
    for words in ("quota", "client_max_body_size", "CHUNK_SIZE_BYTES", "continue by themselves"):
        assert words in str(error)
    larger = refused_of(largest + 1)
    assert (larger.over_quota, larger.transient) == (False, False)


@pytest.mark.parametrize(
    "body", [b"", b"<Error><Code>Insufficient Storage</Code></Error>", b"<Error><Code>XMinioStorageFull</Code></Error>"]
)
def test_p6_a_store_whose_disks_are_full_is_waited_for_and_told(body: bytes) -> None:
    error = refused(507, body)
    assert error.transient
    assert HINTS["XMinioStorageFull"] in str(error)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("-5", None),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@given(st.text(max_size=40))
def test_any_date_header_is_tolerated(value: str) -> None:
    parse_http_date(value)
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or seconds >= 0


def test_retry_after_reaches_the_error() -> None:
    assert refused(503, b"", retry_after="7").retry_after_seconds == 7


def all_httpx_exceptions() -> list[type[Exception]]:
    return [
        thing
        for thing in vars(httpx).values()
        if isinstance(thing, type) and issubclass(thing, Exception) and thing.__module__.startswith("httpx")
    ]


def make(kind: type[Exception]) -> Exception:
    request = httpx.Request("GET", "http://s3.test")
    if kind is httpx.HTTPStatusError:
        return httpx.HTTPStatusError("boom", request=request, response=httpx.Response(500))
    try:
        return kind("boom")
    except TypeError:
        return kind()


PERMANENT_HTTPX = {
    httpx.HTTPError,
    httpx.RequestError,
    httpx.HTTPStatusError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    httpx.DecodingError,
    httpx.TooManyRedirects,
    httpx.InvalidURL,
    httpx.CookieConflict,
    httpx.StreamError,
    httpx.StreamConsumed,
    httpx.StreamClosed,
    httpx.ResponseNotRead,
    httpx.RequestNotRead,
}


@pytest.mark.parametrize("kind", all_httpx_exceptions())
async def test_every_exception_of_httpx_becomes_ours(kind: type[Exception]) -> None:
    cause = make(kind)
    async with client_of(ScriptedStore(cause)) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.head_bucket()
    assert caught.value.__cause__ is cause
    assert caught.value.transient is (kind not in PERMANENT_HTTPX)
    assert (caught.value.operation, caught.value.code, caught.value.status) == ("head_bucket", kind.__name__, None)


def test_there_are_as_many_exceptions_of_httpx_as_this_table_was_written_for() -> None:
    assert len(all_httpx_exceptions()) == 28
    assert set(all_httpx_exceptions()) >= PERMANENT_HTTPX


async def test_the_error_for_an_untrusted_certificate_names_the_setting() -> None:
    cause = httpx.ConnectError("")
    inner = ssl.SSLCertVerificationError(1, "certificate verify failed")
    inner.verify_message = "self-signed certificate"
    cause.__context__ = inner
    async with client_of(ScriptedStore(cause)) as client:
        with pytest.raises(S3OperationError, match=r"not trusted \(self-signed certificate\); set S3_CA_FILE"):
            await client.head_bucket()


async def test_the_error_for_a_refused_connection_has_the_kernels_message() -> None:
    cause = httpx.ConnectError("all attempts to connect failed")
    cause.__context__ = ExceptionGroup("two addresses", [ConnectionRefusedError(111, "Connection refused"), OSError()])
    async with client_of(ScriptedStore(cause)) as client:
        with pytest.raises(S3OperationError, match=r"ConnectError: .*Connection refused"):
            await client.head_bucket()


async def test_a_rejection_without_a_reason_has_no_invented_one() -> None:
    async with client_of(ScriptedStore(Reply(403))) as client:
        with pytest.raises(S3OperationError, match="the response has no reason") as caught:
            await client.head_object("k")
    assert (caught.value.code, caught.value.transient) == ("AccessDenied", False)


@pytest.mark.parametrize("body", [b"", b"<Error><Code>AccessDen"])
def test_p6_a_rejection_that_was_cut_off_before_its_reason_is_transient(body: bytes) -> None:
    error = error_from_response("upload_part", status=403, headers={}, body=body, now=NOW, cut_off=True)
    assert (error.code, error.transient) == ("UnreadableAnswer", True)
    assert "HTTP 403" in str(error)


def test_a_reason_that_arrived_counts_though_the_connection_broke_behind_it() -> None:
    body = b"<Error><Code>AccessDenied</Code></Error>"
    error = error_from_response("upload_part", status=403, headers={}, body=body, now=NOW, cut_off=True)
    assert (error.code, error.transient) == ("AccessDenied", False)


async def test_a_skewed_clock_is_detected_in_a_response_to_head_which_has_no_code() -> None:
    store = ScriptedStore(Reply(403, {"date": "Mon, 23 Nov 2026 13:00:00 GMT"}), Reply(200))
    async with client_of(store) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.head_bucket()
        assert (caught.value.code, caught.value.transient) == ("RequestTimeTooSkewed", True)
        await client.head_bucket()
        assert store.requests[1].headers["x-amz-date"] == "20261123T130000Z"
    async with client_of(ScriptedStore(Reply(403, {"date": DATE}))) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.head_bucket()
    assert (caught.value.code, caught.value.transient) == ("AccessDenied", False)


async def test_no_secret_is_in_any_error() -> None:
    """SignatureDoesNotMatch quotes the signed request; the error does not."""
    body = (
        f"<Error><Code>SignatureDoesNotMatch</Code><Message>m</Message><StringToSign>{TOKEN}</StringToSign>"
        f"<CanonicalRequest>x-amz-security-token:{TOKEN}</CanonicalRequest></Error>"
    ).encode()
    async with client_of(ScriptedStore(*[Reply(403, {}, body)] * 2)) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.put_object("k", Passes(b"12345"), content_type="x/y")
        assert TOKEN not in f"{caught.value!s}{caught.value!r}{vars(caught.value)}"
        assert SECRET not in f"{client!r}{vars(client)}"
        assert TOKEN not in f"{client!r}{vars(client)}"


@pytest.mark.parametrize("fast_seconds", [3600, -3600])
async def test_a_skewed_clock_is_corrected_by_the_date_of_the_rejection(fast_seconds: int) -> None:
    skewed = NOW + timedelta(seconds=fast_seconds)
    refusal = error_reply(403, "RequestTimeTooSkewed", headers={"date": "Mon, 23 Nov 2026 12:00:00 GMT"})
    store = ScriptedStore(refusal, Reply(200))
    async with client_of(store, now=lambda: skewed) as client:
        with pytest.raises(S3OperationError) as caught:
            await client.head_bucket()
        assert caught.value.transient
        await client.head_bucket()
    assert store.requests[0].headers["x-amz-date"] == skewed.strftime("%Y%m%dT%H%M%SZ")
    assert store.requests[1].headers["x-amz-date"] == "20261123T120000Z"


@pytest.mark.parametrize("headers", [{"date": "Mon, 23 Nov 2026 12:00:00 GMT"}, {}, {"date": "yesterday"}])
async def test_a_skew_that_the_date_does_not_explain_is_permanent(headers: dict[str, str]) -> None:
    async with client_of(ScriptedStore(error_reply(403, "RequestTimeTooSkewed", headers=headers))) as client:
        with pytest.raises(S3OperationError, match="synchronise") as caught:
            await client.head_bucket()
    assert not caught.value.transient
