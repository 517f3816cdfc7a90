"""A proxy before a stand-in that lets a test decide which calls go wrong, and how.

    proxy = fault_proxy(kinesalite)
    aws_env(kinesis=proxy.url)
    proxy.on("PutRecords", faults.throttled(), times=3)

Faults are in `faults`. Calls for which no fault is left pass unchanged. `proxy.calls` tells what went by.
"""

import http.client
import random
import socket
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from standins.call import Answer, Call

_UPSTREAM_S = 60
_HOP_BY_HOP = frozenset(
    {"connection", "content-length", "date", "expect", "keep-alive", "server", "trailer", "transfer-encoding"}
)


@dataclass
class _Plan:
    operation: str | None
    fault: object
    left: float
    skip: int
    chance: float
    random: random.Random

    def takes(self, call):
        if self.operation not in {None, call.operation} or self.left < 1:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.random.random() >= self.chance:
            return False
        self.left -= 1
        return True


class FaultProxy:
    """See the module. Use as a context manager, or by the fixture `fault_proxy`."""

    def __init__(self, upstream):
        self._upstream = urlsplit(upstream).netloc
        self._plans = []
        self._lock = threading.Lock()
        self._numbers = Counter()
        self._failures = []
        self.calls = []
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.end()
        if self._failures:
            raise self._failures[0]

    def on(self, operation, fault, *, times=1, skip=0, chance=1.0, seed=1):
        """Let calls of an operation (None: of any) go wrong; what was planned first comes first.

        Args:
            operation: as AWS names it.
            fault: see `faults`.
            times: so many calls; None: all of them.
            skip: let so many pass before.
            chance: of each call to be taken, by a random generator with this seed.
            seed: of it.
        """
        left = float("inf") if times is None else times
        with self._lock:
            self._plans.append(_Plan(operation, fault, left, skip, chance, random.Random(seed)))  # noqa: S311  no secret

    def clear(self):
        """From now on all calls pass unchanged."""
        with self._lock:
            self._plans.clear()

    def count(self, operation):
        """Calls of an operation so far."""
        with self._lock:
            return sum(call.operation == operation for call in self.calls)

    def answer(self, call):
        """What the proxy answers to a call; None: it hangs up."""
        with self._lock:
            call.number = self._numbers[call.operation]
            self._numbers[call.operation] += 1
            self.calls.append(call)
            plan = next((plan for plan in self._plans if plan.takes(call)), None)
        answer = plan.fault(call, self.forward) if plan else self.forward(call)
        call.status = answer and answer.status
        return answer

    def forward(self, call, body=None):
        """The stand-in's answer, to the call or to another body in its place."""
        # A connection for each call: on one that is kept, a server that hangs up looks like a lost answer.
        connection = http.client.HTTPConnection(self._upstream, timeout=_UPSTREAM_S)
        body = call.body if body is None else body
        try:
            connection.putrequest(call.method, call.path, skip_host=True, skip_accept_encoding=True)
            for name, value in call.headers.items():
                if name not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            if body or call.method in {"PUT", "POST"}:
                connection.putheader("content-length", str(len(body)))
            connection.putheader("connection", "close")
            connection.endheaders(body or None)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def failed(self, error):
        """Note what went wrong in the proxy itself; its end raises it."""
        self._failures.append(error)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, proxy):
        self.proxy = proxy
        self._open = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request, client_address):
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, *_):
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            self.proxy.failed(error)

    def end(self):
        for request in list(self._open):
            try:
                request.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # its client hung up first
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.proxy.answer(Call(self.command, self.path, headers, self._body(headers)))
        if answer is None:
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        names = {name.lower() for name in answer.headers}
        for name, value in answer.headers.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = str(len(answer.body) + answer.withheld)
        if self.command == "HEAD" and "content-length" in names:
            length = next(value for name, value in answer.headers.items() if name.lower() == "content-length")
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(answer.body)
        self.close_connection |= bool(answer.withheld)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815  the names that the base class looks up

    def _body(self, headers):
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(headers.get("content-length", 0)))
        chunks = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            continue
        return b"".join(chunks)

    def log_message(self, *_):
        """Says nothing: `FaultProxy.calls` tells."""
