"""Serves an artefact on a free port, asks it with OpenAI's client, and stops the server.

pip install openai
python examples/serve_and_query.py OUT
"""

import json
import subprocess
import sys

from openai import OpenAI

command = [sys.executable, "-m", "lathe", "serve", sys.argv[1], "--port", "0", "--json"]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    try:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())  # printed once the model answers
        client = OpenAI(base_url=f"{ready['url']}/v1", api_key="none")
        stream = client.chat.completions.create(
            model=ready["model"],
            messages=[{"role": "user", "content": "Why is the sky blue?"}],
            max_tokens=32,
            stream=True,
        )
        for event in stream:
            print(event.choices[0].delta.content or "", end="", flush=True)
        print()
    finally:
        server.terminate()
