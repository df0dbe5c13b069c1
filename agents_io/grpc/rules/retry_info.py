"""How long a gRPC status asks to wait: `google.rpc.RetryInfo` in its details. Pure.

In: the bytes of `grpc-status-details-bin`, a google.rpc.Status. Out: seconds, or None. Read without generated code of
google.rpc: a Status has its details in field 3, a RetryInfo its delay in field 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

_DETAILS, _DELAY = 3, 1


def retry_info_s(status: bytes) -> float | None:
    """Seconds to wait, None without a RetryInfo that can be read.

    >>> info = Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\\x0a\\x02\\x08\\x03").SerializeToString()
    >>> retry_info_s(bytes([0x1A, len(info)]) + info), retry_info_s(b"no")
    (3.0, None)
    """
    try:
        for raw in _messages(status, _DETAILS):
            detail = Any.FromString(raw)
            if detail.type_url.endswith("/google.rpc.RetryInfo"):
                delay = Duration.FromString(next(_messages(detail.value, _DELAY), b""))
                return delay.seconds + delay.nanos / 1e9
    except DecodeError:
        pass
    return None


def _messages(raw: bytes, number: int) -> Iterator[bytes]:
    """The messages in this field of a message."""
    fields = UnknownFieldSet(Empty.FromString(raw))
    for field in (fields[place] for place in range(len(fields))):
        if field.field_number == number and isinstance(field.data, bytes):
            yield field.data
