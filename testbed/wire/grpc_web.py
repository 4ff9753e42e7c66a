"""gRPC-Web by hand: what a browser sends, over HTTP/1.1, with nothing but the standard library."""

import http.client
import struct
from dataclasses import dataclass

CONTENT_TYPE = "application/grpc-web+proto"
TRAILERS = 0x80


@dataclass
class Answer:
    messages: list[bytes]
    trailers: dict[str, str]

    @property
    def status(self) -> int:
        return int(self.trailers["grpc-status"])


def call(address: str, method: str, message, headers: dict[str, str] | None = None) -> Answer:
    """Calls a method such as `gofer.v1.RunService/GetRun` and reads the whole answer."""
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        encoded = message.SerializeToString()
        body = struct.pack(">BI", 0, len(encoded)) + encoded
        sent = {"content-type": CONTENT_TYPE, "x-grpc-web": "1", **(headers or {})}
        connection.request("POST", f"/{method}", body, sent)
        response = connection.getresponse()
        assert response.status == 200, f"HTTP status {response.status}"
        content_type = response.getheader("content-type")
        assert content_type.startswith("application/grpc-web"), content_type
        return parse(response.read(), dict(response.getheaders()))
    finally:
        connection.close()


def parse(body: bytes, headers: dict[str, str]) -> Answer:
    """Splits a body into frames. An error before the first message may come in the headers alone."""
    messages, trailers = [], {name.lower(): value for name, value in headers.items()}
    while body:
        flags, length = struct.unpack(">BI", body[:5])
        payload, body = body[5 : 5 + length], body[5 + length :]
        assert len(payload) == length, f"a frame of {length} bytes has only {len(payload)}"
        if flags & TRAILERS:
            assert not body, "something follows the trailers"
            lines = payload.decode().split("\r\n")
            trailers |= {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
            }
        else:
            messages.append(payload)
    return Answer(messages, trailers)
