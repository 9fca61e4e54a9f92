#!/usr/bin/env bash
# Guess: with httpx, `next(response.iter_text())` reads the first part of a streamed answer and leaves the rest to
# be read, or at least leaves the connection as it is until the `with` block ends.
# Seen (httpx 0.28.1, httpcore 1.0.9, CPython 3.11): the generator is dropped at once, and httpcore closes the
# connection with it: the server sees the client hang up in the middle of the answer, while `response.is_closed` says
# False. With the generator in a variable the connection stays. Exits with 1 if that changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check httpx==0.28.1 httpcore==1.0.9
"$place/venv/bin/python" - <<'PY'
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx


hung_up, noted = [], threading.Event()


class Slow(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        self.connection.settimeout(1)
        try:
            hung_up.append(self.connection.recv(1) == b"")
        except TimeoutError:
            hung_up.append(False)
            self.wfile.write(b"4\r\nrest\r\n0\r\n\r\n")
        except ConnectionError:
            hung_up.append(True)
        self.close_connection = True
        noted.set()

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Slow)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
with httpx.stream("GET", url) as answer:
    next(answer.iter_text())
    noted.wait(5)
    dropped = answer.is_closed, hung_up.pop()
noted.clear()
with httpx.stream("GET", url) as answer:
    parts = answer.iter_text()
    next(parts)
    noted.wait(5)
    kept = answer.is_closed, hung_up.pop()
print("generator dropped: (is_closed, the server saw a hang-up) =", dropped)
print("generator kept:    (is_closed, the server saw a hang-up) =", kept)
sys.exit(not (dropped == (False, True) and kept == (False, False)))
PY
