#!/bin/sh
# Guess: lm-eval scores a text from its beginning-of-text token on, and gets that token from the server's tokenizer as well
#   as from a local one: `local-completions` asks /tokenizer_info by default, so both give the same perplexity.
# Version: lm-eval 0.4.13, transformers 5.23.0.
# Behaviour: with the local tokenizer the prefix is the beginning-of-text token, whatever its id. With the server's it is
#   `bos_token_id or eos_token_id`: where the beginning-of-text token has the id 0 (`<s>` of RoBERTa-style vocabularies, and
#   many small ones), the end token is used without a word. `custom_prefix_token_id=0` sets it right.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check 'lm-eval[api]==0.4.13' transformers==5.23.0 torch==2.13.0
HF_HUB_OFFLINE=1 "$here/venv/bin/python" - "$here" <<'PY'
import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from lm_eval.models.openai_completions import LocalCompletionsAPI

words = {"<s>": 0, "</s>": 1, "test": 2, "<unk>": 3}
tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(sys.argv[1] + "/tok")

class Server(BaseHTTPRequestHandler):
    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer({"tokenizer_class": "X", "bos_token": "<s>", "eos_token": "</s>", "pad_token": None})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tokens = [words.get(word, 3) for word in asked["prompt"].split()]
        self.answer({"tokens": tokens, "count": len(tokens), "max_model_len": 64})
    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1/completions"
local = LocalCompletionsAPI(model="m", base_url=url, tokenizer_backend="huggingface", tokenizer=sys.argv[1] + "/tok")
remote = LocalCompletionsAPI(model="m", base_url=url)
print("backend by default:", remote.tokenizer_backend)
print("prefix with the local tokenizer:", local.prefix_token_id, "with the server's:", remote.prefix_token_id)
sys.exit(not (remote.tokenizer_backend == "remote" and local.prefix_token_id == 0 and remote.prefix_token_id == 1))
PY
