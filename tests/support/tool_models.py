"""Chat templates that write tools as families of models do, and servers of a tiny model with them.

The templates are written for these tests, in the forms that the families' own templates have.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AddedToken, PreTrainedTokenizerFast

from lathe.compressor.export.dense import dense_artefact
from support.tiny_server import save_checkpoint, save_tokenizer

_CALL_LOOP = (
    "{% for c in m.tool_calls %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}"
)
QWEN = (
    "{% if tools %}<|system|># Tools\n<tools>{% for t in tools %}\n{{ t | tojson }}{% endfor %}\n</tools>\n"
    "For each call, return an object within <tool_call></tool_call>:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>{% endif %}'
    "{% for m in messages %}{% if m.role == 'tool' %}"
    "<|user|><tool_response>\n{{ m.content }}\n</tool_response>"
    "{% else %}<|{{ m.role }}|>{{ m.content }}{% if m.tool_calls %}" + _CALL_LOOP + "{% endif %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LLAMA = (
    "{% for m in messages %}{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}"
    "{{ raise_exception('This model only supports single tool-calls at once!') }}{% endif %}"
    "{% set f = m.tool_calls[0].function %}<|assistant|>"
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
    '{% elif m.role == "tool" %}<|ipython|>{{ {"output": m.content} | tojson }}'
    "{% else %}<|{{ m.role }}|>{% if loop.first and tools %}Respond in the format "
    '{"name": function name, "parameters": dictionary}.\n'
    "{% for t in tools %}{{ t | tojson(indent=4) }}\n{% endfor %}{% endif %}{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SMOLLM = (
    "{% if xml_tools %}<|system|>### Tools\n<tools>{% for t in xml_tools[:] %}\n{{ t | string }}{% endfor %}"
    "\n</tools>\nreturn a json object within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>{% endif %}'
    "{% for m in messages %}{% if m.role == 'tool' %}<|user|>{{ m.content }}"
    "{% else %}<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_NINE = (
    "{% if c.id | length != 9 %}"
    "{{ raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{% endif %}"
)
_MISTRAL = (
    "{% set users = messages | selectattr('role', 'equalto', 'user') | list %}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and m == users[-1] %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST]{{ m.content }}[/INST]{% elif m.tool_calls is defined %}CALLS"
    "{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.tool_call_id }} {{ m.content }}[/TOOL_RESULTS]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
MISTRAL_3 = _MISTRAL.replace(
    "CALLS",
    "[TOOL_CALLS] [{% for c in m.tool_calls %}" + _NINE + "{{ (c.function | tojson)[:-1] }}, "
    '"id": "{{ c.id }}"}{% if not loop.last %}, {% endif %}{% endfor %}]{{ eos_token }}',
)
MISTRAL_11 = _MISTRAL.replace(
    "CALLS",
    "{% for c in m.tool_calls %}" + _NINE + "[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}"
    "[ARGS]{{ c.function.arguments | tojson }}{% endfor %}{{ eos_token }}",
)
MISTRAL_13 = _MISTRAL.replace(
    "CALLS",
    "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]"
    "{{ c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}"
    "{% endfor %}{{ eos_token }}",
)
CODER = QWEN.replace(
    '{"name": <function-name>, "arguments": <args-json-object>}', "<function=example>\n</function>"
)

THINKING = QWEN.replace(
    "<|assistant|>{% endif %}",
    "<|assistant|>{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}",
)

PLAIN_MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")
SPECIAL_MARKS = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>")
TEMPLATES = {
    "hermes": QWEN,
    "llama3_json": LLAMA,
    "mistral_list": MISTRAL_3,
    "mistral_call_id": MISTRAL_11,
    "mistral_args": MISTRAL_13,
}


def save_calling_tokenizer(
    directory: Path, *, template: str | dict[str, str] = QWEN, marks: bool = True
) -> None:
    """`marks`: it has tokens for the marks, as the families' own have."""
    save_tokenizer(directory)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    if marks:
        tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in PLAIN_MARKS])
        tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in SPECIAL_MARKS])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)


def save_calling(directory: Path, template: str | dict[str, str], *, marks: bool = True) -> Path:
    """An artefact with this template."""
    checkpoint = save_checkpoint(directory / "model", vocab_size=328, max_position_embeddings=2048)
    save_calling_tokenizer(checkpoint, template=template, marks=marks)
    return dense_artefact(str(checkpoint), directory / "cache")
