"""The errors of S3. Pure.

Codes, statuses and texts are those of https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. The table
has the status of each code, so that a code has the same status everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

ERRORS: Final[Mapping[str, tuple[int, str]]] = MappingProxyType(
    {
        "AccessControlListNotSupported": (400, "The bucket does not allow ACLs"),
        "AccessDenied": (403, "Access Denied"),
        "AuthorizationHeaderMalformed": (400, "The authorization header that you provided is not valid."),
        "AuthorizationQueryParametersError": (
            400,
            ("The authorization query parameters that you provided are not valid."),
        ),
        "BadDigest": (
            400,
            ("The Content-MD5 or checksum value that you specified did not match what the server received."),
        ),
        "BadRequest": (400, "Bad Request"),
        "BucketAlreadyOwnedByYou": (
            409,
            "Your previous request to create the named bucket succeeded and you already own it.",
        ),
        "BucketNotEmpty": (409, "The bucket that you tried to delete is not empty."),
        "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed size"),
        "EntityTooSmall": (400, "Your proposed upload is smaller than the minimum allowed size"),
        "IncompleteBody": (400, "You did not provide the number of bytes specified by the Content-Length HTTP header"),
        "InternalError": (500, "We encountered an internal error. Please try again."),
        "InvalidAccessKeyId": (403, "The AWS Access Key Id you provided does not exist in our records."),
        "InvalidArgument": (400, "Invalid Argument"),
        "InvalidBucketName": (400, "The specified bucket is not valid."),
        "InvalidChunkSizeError": (403, "Only the last chunk is allowed to have a size less than 8192 bytes"),
        "InvalidDigest": (400, "The Content-MD5 you specified was invalid."),
        "InvalidLocationConstraint": (400, "The specified location constraint is not valid."),
        "InvalidObjectState": (403, "The operation is not valid for the object's storage class"),
        "InvalidPart": (
            400,
            (
                "One or more of the specified parts could not be found.  The part may not have been uploaded, or the "
                "specified entity tag may not match the part's entity tag."
            ),
        ),
        "InvalidPartOrder": (
            400,
            ("The list of parts was not in ascending order. Parts must be ordered by part number."),
        ),
        "InvalidRange": (416, "The requested range is not satisfiable"),
        "InvalidRequest": (400, "Invalid Request"),
        "InvalidStorageClass": (400, "The storage class you specified is not valid"),
        "InvalidTag": (400, "The tag provided was not a valid tag."),
        "ExpiredToken": (400, "The provided token has expired."),
        "InvalidToken": (400, "The provided token is malformed or otherwise invalid."),
        "InvalidURI": (400, "Couldn't parse the specified URI."),
        "KeyTooLongError": (400, "Your key is too long"),
        "MalformedTrailerError": (400, "The request contained trailing data that was not well-formed."),
        "MalformedXML": (
            400,
            ("The XML you provided was not well-formed or did not validate against our published schema"),
        ),
        "MetadataTooLarge": (400, "Your metadata headers exceed the maximum allowed metadata size"),
        "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
        "MissingContentLength": (411, "You must provide the Content-Length HTTP header."),
        "NoSuchBucket": (404, "The specified bucket does not exist"),
        "NoSuchKey": (404, "The specified key does not exist."),
        "NoSuchLifecycleConfiguration": (404, "The lifecycle configuration does not exist"),
        "NoSuchUpload": (
            404,
            (
                "The specified upload does not exist. The upload ID may be invalid, or the upload may have been "
                "aborted or completed."
            ),
        ),
        "NotImplemented": (501, "A header or query you provided implies functionality that is not implemented."),
        "PreconditionFailed": (412, "At least one of the pre-conditions you specified did not hold"),
        "RequestTimeTooSkewed": (403, "The difference between the request time and the current time is too large."),
        "RequestTimeout": (
            400,
            ("Your socket connection to the server was not read from or written to within the timeout period."),
        ),
        "ServiceUnavailable": (503, "Service is unable to handle request."),
        "SignatureDoesNotMatch": (
            403,
            (
                "The request signature we calculated does not match the signature you provided. Check your key and "
                "signing method."
            ),
        ),
        "SlowDown": (503, "Please reduce your request rate."),
        "XAmzContentSHA256Mismatch": (
            400,
            ("The provided 'x-amz-content-sha256' header does not match what was computed."),
        ),
    }
)
"""Code → (HTTP status, default message)."""


class S3Error(Exception):
    """An error response of S3.

    Args:
        code: one of ``ERRORS``, or any other together with ``status``.
        message: the table's by default.
        status: HTTP status; the table's by default, 500 for unknown codes.
        details: further elements of the error document (``Region``, ``StringToSign``, …).
        headers: further headers of the reply (``Retry-After``).
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        status: int | None = None,
        details: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        usual_status, usual_message = ERRORS.get(code, (500, code))
        self.code = code
        self.message = usual_message if message is None else message
        self.status = usual_status if status is None else status
        self.details = dict(details or {})
        self.headers = dict(headers or {})
        super().__init__(f"{self.status} {code}: {self.message}")
