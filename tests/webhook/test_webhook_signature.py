"""The signature is that of Standard Webhooks: the published example, and HMAC by its RFC."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cef_trio.webhook.outcome import DeliveryOutcome, outcome_of_status
from cef_trio.webhook.signature import decode_secret, signature

BLOCK = 64
ids = st.text(st.characters(codec="ascii", exclude_characters="."), max_size=40)


def hmac_sha256_by_rfc_2104(key: bytes, message: bytes) -> bytes:
    key = (hashlib.sha256(key).digest() if len(key) > BLOCK else key).ljust(BLOCK, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()


def test_the_signature_is_that_of_the_published_example() -> None:
    key = decode_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(key=st.binary(min_size=24, max_size=100), delivery_id=ids, timestamp=st.integers(0, 2**40), body=st.binary())
def test_the_signature_is_hmac_sha256_over_id_timestamp_and_body(
    key: bytes, delivery_id: str, timestamp: int, body: bytes
) -> None:
    assert decode_secret("whsec_" + base64.b64encode(key).decode()) == key
    expected = hmac_sha256_by_rfc_2104(key, delivery_id.encode() + b"." + str(timestamp).encode() + b"." + body)
    assert signature(key, delivery_id, timestamp, body) == "v1," + base64.b64encode(expected).decode()


def test_what_could_be_read_in_two_ways_is_not_signed() -> None:
    with pytest.raises(ValueError, match="full stop"):
        signature(b"k" * 24, "msg_1.2", 3, b"")


@pytest.mark.parametrize("secret", ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_*", "whsk_MfKQ9r8GKYqr"])
def test_an_invalid_secret_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match=r"whsec_|base64|padding|character"):
        decode_secret(secret)


def test_every_status_is_judged() -> None:
    """2xx is delivered; 4xx is refused, except 407, 408, 425 and 429; the rest is retried."""
    for status in range(100, 600):
        judged = outcome_of_status(status)
        if 200 <= status < 300:
            assert judged is DeliveryOutcome.DELIVERED
        elif 400 <= status < 500 and status not in {407, 408, 425, 429}:
            assert judged is DeliveryOutcome.REFUSED
        else:
            assert judged is DeliveryOutcome.RETRY
