"""A local stand-in of the hub's HTTP interface: repositories are made and take commits of files sent inline."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub:
    """What was sent: repositories as (type, name, private), files by name, tokens that came with requests."""

    def __init__(self):
        self.repositories, self.files, self.tokens, self.refuses = [], {}, set(), None
        self.endpoint = ""


def handler(hub):
    class Handler(BaseHTTPRequestHandler):
        def answer(self, value, status=200):
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):  # noqa: N802
            self.answer({"id": "owner/name", "sha": "0" * 40, "siblings": [], "name": "owner", "type": "user"})

        def do_POST(self):  # noqa: N802
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                body = self.chunks()
            hub.tokens.add(self.headers.get("Authorization"))
            if hub.refuses:
                self.answer({"error": hub.refuses}, 403)
            elif self.path.endswith("/repos/create"):
                asked = json.loads(body)
                hub.repositories.append(
                    (asked.get("type", "model"), asked["name"], asked.get("visibility") == "private")
                )
                self.answer({"url": f"{hub.endpoint}/{asked.get('organization', 'me')}/{asked['name']}"})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                self.answer(
                    {
                        "files": [
                            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files
                        ]
                    }
                )
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                repository = "/".join(self.path.split("/")[3:5])
                url = f"{hub.endpoint}/{repository}/commit/{'0' * 40}"
                self.answer({"commitUrl": url, "commitOid": "0" * 40, "success": True})
            else:
                self.answer({})

        def chunks(self):
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            return found

        def log_message(self, *args):
            pass

    return Handler


@contextmanager
def local_hub(monkeypatch):
    """A hub that the library takes for its own, as HF_ENDPOINT does for a process that starts with it."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
