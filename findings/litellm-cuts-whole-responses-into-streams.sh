#!/usr/bin/env bash
# Guess: `litellm.responses(model="openai/NAME", stream=True)` asks the server for a stream, as `litellm.completion` does.
# Seen (litellm 1.110.2, openai 3.57.0, CPython 3.11): for a NAME that is not in its list of models it asks for a whole
# response, without `stream`, and cuts that into events of five characters each: the first one comes when all is said,
# and no event of the server's own is seen. Chat completions of the same name are streamed. After
# `litellm.register_model({"openai/NAME": {..., "supports_native_streaming": True}})` it asks for a stream.
# Exits with 1 if that changes.
set -euo pipefail
place=$(mktemp -d); trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check litellm==1.110.2 openai==3.57.0
LITELLM_LOCAL_MODEL_COST_MAP=True "$place/venv/bin/python" - <<'PY'
import json
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer

import litellm

warnings.simplefilter("ignore")
asked = []
PART = {"type": "output_text", "text": "Once upon a time.", "annotations": [], "logprobs": []}
ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [PART]}
USAGE = {
    "input_tokens": 1, "output_tokens": 5, "total_tokens": 6,
    "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
}
RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "mine", "output": [ITEM],
    "usage": USAGE, "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "tools": [],
    "parallel_tool_calls": True, "temperature": 1.0, "top_p": 1.0, "tool_choice": "auto",
}


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked.append(body.get("stream"))
        self.send_response(200)
        if body.get("stream"):
            self.send_header("content-type", "text/event-stream")
            event = {"type": "response.completed", "sequence_number": 0, "response": RESPONSE}
            answer = f"event: response.completed\ndata: {json.dumps(event)}\n\n".encode()
        else:
            self.send_header("content-type", "application/json")
            answer = json.dumps(RESPONSE).encode()
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
given = {"api_base": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "x", "input": "Hello", "stream": True}
deltas = [e.delta for e in litellm.responses(model="openai/mine", **given) if "text.delta" in e.type]
litellm.register_model(
    {"openai/mine": {"litellm_provider": "openai", "mode": "chat", "supports_native_streaming": True}}
)
list(litellm.responses(model="openai/mine", **given))
print("`stream` that the server was sent, first unregistered, then registered:", asked)
print("deltas of the stream that the server never sent:", deltas)
sys.exit(not (asked == [None, True] and len(deltas) > 1))
PY
