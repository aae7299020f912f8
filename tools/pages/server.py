"""What the servers of pages share: one address, a check of the Host header, whole replies with a policy.

They serve this machine only unless told otherwise. A page of the web that a browser on this machine has open could
still reach them under a name of its own that leads here (DNS rebinding): so a request must name this machine.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class PageServer(ThreadingHTTPServer):
    """A server of pages on one address.

    Raises:
        ValueError: the address is not to be had.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[PageHandler]) -> None:
        """Bind; `address` is host and port, port 0 takes a free one."""
        self.names = {"localhost", address[0].lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        try:
            super().__init__(address, handler)
        except (OSError, OverflowError) as error:
            cure = "--port 0 takes a free one"
            raise ValueError(f"--host {address[0]} --port {address[1]}: {error}; {cure}") from error

    def is_named(self, host: str) -> bool:
        """Whether a Host header names this machine: by an address, or by a name that it has."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        with contextlib.suppress(ValueError):
            return bool(ipaddress.ip_address(name))
        return name.lower() in self.names

    def run(self) -> None:
        """Say where the page is, and serve until interrupted."""
        host, port = self.server_address[:2]
        print(f"http://{host!s}:{port}/", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            self.serve_forever()


class PageHandler(BaseHTTPRequestHandler):
    """Whole replies, to requests that name this machine."""

    server: PageServer
    policy = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'"
    timeout = 60  # seconds for a request to go on

    def parse_request(self) -> bool:
        """Refuse what names another host, before any method is called."""
        if not super().parse_request():
            return False
        if self.server.is_named(self.headers.get("Host", "")):
            return True
        self.close_connection = True
        self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "this server goes by another name")
        return False

    def reply(self, status: HTTPStatus, text: str, kind: str) -> None:
        """Send a whole response."""
        content = text.encode()
        self.start_reply(status, kind, {"Content-Length": str(len(content))})
        self.wfile.write(content)

    def start_reply(self, status: HTTPStatus, kind: str, more: dict[str, str]) -> None:
        """Send the head of a response."""
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Security-Policy": self.policy, "Cache-Control": "no-store"}
        for name, value in {**headers, "X-Content-Type-Options": "nosniff", **more}.items():
            self.send_header(name, value)
        self.end_headers()
