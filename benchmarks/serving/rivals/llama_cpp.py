"""llama.cpp, through the C interface that llama-cpp-python builds and declares.

As it comes, with flash attention, it reads prompts faster; without, it decodes faster: two rivals.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.rival import Engine, Job, Rival, cached_values, read_config, rivals

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_ROTATED = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
_F16_BYTES = 2


class _LlamaCpp:
    """A context of `job.batch` sequences, the cache in float16 as by default."""

    def __init__(self, path: Path, job: Job, flash: bool) -> None:
        import llama_cpp

        self._api = api = llama_cpp
        config = read_config(job.model)
        self._vocabulary = config["vocab_size"]
        model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        options = api.llama_context_default_params()
        options.n_ctx, options.n_seq_max = job.length * job.batch, job.batch
        options.n_batch = job.length * job.batch
        if not flash:
            options.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_DISABLED
        options.n_threads = options.n_threads_batch = job.threads
        self._context = api.llama_init_from_model(model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp made no context for {path}")
        self._memory = api.llama_get_memory(self._context)
        self._batch = api.llama_batch_init(job.length * job.batch, 0, 1)
        self._next, self._length = np.zeros(0, np.int64), 0
        self.streamed_bytes = streamed_bytes(path)
        self.kv_bytes = _F16_BYTES * cached_values(config)

    def prefill(self, prompts: np.ndarray) -> np.ndarray:
        self._next = self.logits(prompts).argmax(-1)
        return self._next

    def decode(self) -> np.ndarray:
        self._next = self._run(self._next[:, None]).argmax(-1)
        return self._next

    def logits(self, prompts: np.ndarray) -> np.ndarray:
        self._api.llama_memory_clear(self._memory, False)
        self._length = 0
        return self._run(prompts)

    def _run(self, tokens: np.ndarray) -> np.ndarray:
        """Append tokens [B, S]; logits after the last of each, [B, V]."""
        rows, steps = tokens.shape
        batch, count = self._batch, tokens.size
        batch.n_tokens = count
        view = np.ctypeslib.as_array
        view(batch.token, (count,))[:] = tokens.reshape(-1)
        view(batch.pos, (count,))[:] = np.tile(np.arange(self._length, self._length + steps), rows)
        view(batch.n_seq_id, (count,))[:] = 1
        for index in range(count):
            batch.seq_id[index][0] = index // steps
        wanted = view(batch.logits, (count,))
        wanted[:] = 0
        wanted[steps - 1 :: steps] = 1
        if self._api.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        self._length += steps
        return np.stack([self._logits(steps * (row + 1) - 1) for row in range(rows)])

    def _logits(self, index: int) -> np.ndarray:
        pointer = self._api.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, (self._vocabulary,)).copy()


def _make(job: Job) -> Path:
    """A GGUF file; every matrix in the job's format."""
    if not job.out.exists():
        _write(job)
    return job.out


def _write(job: Job) -> None:
    import gguf
    from safetensors.numpy import load_file

    config, kind = read_config(job.model), gguf.GGMLQuantizationType[job.format.upper()]
    writer = gguf.GGUFWriter(job.out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(_rope_theta(config))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for file in sorted(job.model.glob("*.safetensors")):
        for name, value in load_file(file).items():
            heads = _ROTATED.get(name.split(".")[-2])
            value = _interleaved(value, config[heads]) if heads else value
            stored = kind if value.ndim == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(_renamed(name), gguf.quants.quantize(value, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _rope_theta(config: dict[str, Any]) -> float:
    return float(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])


def _renamed(name: str) -> str:
    module = name.removesuffix(".weight")
    if module in _WHOLE:
        return f"{_WHOLE[module]}.weight"
    _, _, index, rest = module.split(".", 3)
    return f"blk.{index}.{_LAYER[rest]}.weight"


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp rotates neighbours of a head; Hugging Face its halves."""
    outputs, inputs = weight.shape
    halves = weight.reshape(heads, 2, outputs // heads // 2, inputs)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(outputs, inputs))


def streamed_bytes(path: Path) -> int:
    """All tensors, but an embedding that is not the head, too."""
    import gguf

    sizes = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(path).tensors}
    table = sizes["token_embd.weight"] if "output.weight" in sizes else 0
    return sum(sizes.values()) - table


def _rival(title: str, flash: bool) -> Rival:
    def load(path: Path, job: Job) -> Engine:
        return _LlamaCpp(path, job, flash)

    return Rival(
        title=title,
        python=".venv-rivals-llama/bin/python",
        packages=("llama-cpp-python", "gguf"),
        formats={"fp32": "f32", "bf16": "bf16", "int8": "q8_0", "int4": "q4_0"},
        make=_make,
        load=load,
    )


rivals.add("llama.cpp", _rival("llama.cpp", flash=True))
rivals.add("llama.cpp-plain", _rival("llama.cpp without flash attention", flash=False))
