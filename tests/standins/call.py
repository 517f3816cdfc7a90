"""A call of an AWS service as it goes by, and answers in the form that its protocol has."""

import json
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4
from xml.sax.saxutils import escape


@dataclass
class Call:
    """A call; `operation` is as AWS names it (`PutRecords`), `status` what was answered, None where nothing was.

    `service` is the name that requests are signed for: that of CloudWatch is `monitoring`.
    """

    method: str
    path: str
    headers: dict
    body: bytes
    number: int = 0
    status: int | None = None
    service: str = field(init=False)
    operation: str = field(init=False)

    def __post_init__(self):
        scope = self.headers.get("authorization", "").partition("Credential=")[2].split(",")[0].split("/")
        self.service = scope[3] if len(scope) > 3 else ""
        self.operation = self._operation()

    @property
    def protocol(self):
        if self.headers.get("smithy-protocol") == "rpc-v2-cbor":
            return "cbor"
        if "x-amz-target" in self.headers:
            return "json"
        if self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return "query"
        return "xml" if self.service == "s3" else "rest-json"

    @property
    def json(self):
        """What a call of a JSON protocol asks for."""
        return json.loads(self.body)

    def _operation(self):
        match self.protocol:
            case "cbor":
                return self.path.rpartition("/")[2]
            case "json":
                return self.headers["x-amz-target"].rpartition(".")[2]
            case "query":
                return parse_qs(self.body.decode())["Action"][0]
            case "xml":
                return self._s3_operation()
        return f"{self.method} {urlsplit(self.path).path}"

    def _s3_operation(self):
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        key = parts.path.strip("/").partition("/")[2]
        if key:
            named = {("POST", "uploads"): "CreateMultipartUpload", ("PUT", "uploadId"): "UploadPart"}
            named |= {("POST", "uploadId"): "CompleteMultipartUpload", ("DELETE", "uploadId"): "AbortMultipartUpload"}
            plain = "CopyObject" if "x-amz-copy-source" in self.headers else f"{self.method.capitalize()}Object"
        else:
            named = {("POST", "delete"): "DeleteObjects", ("GET", "list-type"): "ListObjectsV2"}
            plain = {"GET": "ListObjects", "PUT": "CreateBucket"}.get(self.method, f"{self.method.capitalize()}Bucket")
        return next((named[self.method, part] for part in query if (self.method, part) in named), plain)

    def error(self, code, message, status):
        """An answer that says so in the form that the service would use."""
        request_id = str(uuid4())
        headers = {"x-amzn-RequestId": request_id}
        match self.protocol:
            case "cbor":
                headers |= {"smithy-protocol": "rpc-v2-cbor", "Content-Type": "application/cbor"}
                body = _cbor({"__type": code, "message": message})
            case "query":
                headers["Content-Type"] = "text/xml"
                kind = "Receiver" if status >= 500 else "Sender"
                body = (
                    f"<ErrorResponse><Error><Type>{kind}</Type><Code>{code}</Code><Message>{escape(message)}</Message>"
                    f"</Error><RequestId>{request_id}</RequestId></ErrorResponse>"
                ).encode()
            case "xml":
                headers = {"x-amz-request-id": request_id, "Content-Type": "application/xml"}
                text = f"<Error><Code>{code}</Code><Message>{escape(message)}</Message></Error>"
                body = b"" if self.method == "HEAD" else text.encode()
            case _:
                # DynamoDB alone puts a name space before the code.
                space = "com.amazonaws.dynamodb.v20120810#" if self.service == "dynamodb" else ""
                headers |= {"Content-Type": "application/x-amz-json-1.1", "x-amzn-ErrorType": code}
                body = json.dumps({"__type": space + code, "message": message}).encode()
        return Answer(status, headers, body)


@dataclass
class Answer:
    """An answer; `withheld`: so many bytes more are announced than come."""

    status: int
    headers: dict
    body: bytes
    withheld: int = 0

    @property
    def json(self):
        return json.loads(self.body)

    def with_json(self, content):
        """The same with other content; the checksum of the old one is left out."""
        headers = {name: value for name, value in self.headers.items() if name.lower() != "x-amz-crc32"}
        return Answer(self.status, headers, json.dumps(content).encode())


def _cbor(texts):
    """A map of fewer than 24 texts."""
    parts = [bytes([0xA0 + len(texts)])]
    for text in (part for item in texts.items() for part in item):
        data = text.encode()
        parts += [b"\x79", len(data).to_bytes(2, "big"), data]
    return b"".join(parts)
