#!/bin/sh
# Guess: an item of a response can be sent back as input after `item.model_dump()`, as the pydantic models of OpenAI's Python
#   client have the names of the API as their fields.
# Version: openai 3.54.0.
# Behaviour: a function call has the field `async_`, which `model_dump()` writes by that name, null although nothing was
#   received; the API's name is `async`. `to_dict()` gives what was received. A server that refuses unknown fields has to let
#   nulls pass.
set -eu
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --disable-pip-version-check openai==3.54.0
"$here/venv/bin/python" - <<'PY'
import sys
from openai.types.responses import ResponseFunctionToolCall

received = {"type": "function_call", "id": "fc_1", "call_id": "c_1", "name": "f", "arguments": "{}", "status": "completed"}
call = ResponseFunctionToolCall.model_validate(received)
print("model_dump:", call.model_dump())
print("to_dict:   ", call.to_dict())
sys.exit(not ("async_" in call.model_dump() and call.model_dump()["async_"] is None and call.to_dict() == received))
PY
