"""A server that speaks enough of S3 for pyarrow: objects, listings, multipart uploads. It holds them in memory."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest


class Bucket(ThreadingHTTPServer):
    """Objects by key (``bucket/path``), with the time of their writing."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, tuple[bytes, datetime]] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.requests: list[str] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bucket

    def log_message(self, *_: object) -> None:
        """Silent."""

    def answer(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        length = headers.pop("Content_Length", str(len(body)))
        for name, value in {"Content-Length": length, "ETag": '"0"', **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            plain, rest = b"", content
            while match := re.match(rb"([0-9a-fA-F]+)[^\r]*\r\n", rest):
                size = int(match[1], 16)
                plain += rest[match.end() : match.end() + size]
                rest = rest[match.end() + size + 2 :]
                if size == 0:
                    break
            return plain
        return content

    def parse(self) -> tuple[str, dict[str, list[str]]]:
        url = urlsplit(self.path)
        self.server.requests.append(f"{self.command} {self.path}")
        return unquote(url.path).strip("/"), parse_qs(url.query, keep_blank_values=True)

    def do_PUT(self) -> None:
        key, query = self.parse()
        content = self.body()
        if "uploadId" in query:
            self.server.parts[query["uploadId"][0]][int(query["partNumber"][0])] = content
        else:
            self.server.objects[key] = content, datetime.now(UTC)
        self.answer()

    def do_POST(self) -> None:
        key, query = self.parse()
        self.body()
        if "uploads" in query:
            upload = str(len(self.server.parts))
            self.server.parts[upload] = {}
            xml = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        elif "uploadId" in query:
            parts = self.server.parts.pop(query["uploadId"][0])
            self.server.objects[key] = b"".join(parts[number] for number in sorted(parts)), datetime.now(UTC)
            xml = "<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>"
        else:  # DeleteObjects
            xml = "<DeleteResult/>"
        self.answer(body=xml.encode(), Content_Type="application/xml")

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.parse()[0], None)
        self.answer(204)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key, query = self.parse()
        if "list-type" in query:
            return self.answer(body=self.listing(key, query).encode(), Content_Type="application/xml")
        if "/" not in key and any(name.startswith(f"{key}/") for name in self.server.objects):
            return self.answer()  # the bucket
        if key not in self.server.objects:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        content, modified = self.server.objects[key]
        headers = {"Last_Modified": format_datetime(modified, usegmt=True)}
        if self.command == "HEAD":
            return self.answer(Content_Length=str(len(content)), **headers)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
            return self.answer(206, content[first : last + 1], **headers)
        return self.answer(200, content, **headers)

    def listing(self, bucket: str, query: dict[str, list[str]]) -> str:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        entries, folders = [], set()
        for key, (content, modified) in sorted(self.server.objects.items()):
            name = key.removeprefix(f"{bucket}/")
            if key == name or not name.startswith(prefix):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                continue
            entries.append(
                f"<Contents><Key>{escape(name)}</Key><Size>{len(content)}</Size>"
                f"<LastModified>{modified.strftime('%Y-%m-%dT%H:%M:%S.%fZ')}</LastModified></Contents>"
            )
        entries += [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)]
        count = f"<KeyCount>{len(entries)}</KeyCount><IsTruncated>false</IsTruncated>"
        return f"<ListBucketResult>{count}{''.join(entries)}</ListBucketResult>"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """The server; the environment names it, and credentials."""
    server = Bucket()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield server
    server.shutdown()
    server.server_close()
