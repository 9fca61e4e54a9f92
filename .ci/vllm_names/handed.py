"""What no import names: objects that vLLM hands us, what we replace in its classes, and strings."""

from __future__ import annotations

_STATS = "vllm.v1.metrics.stats"
_MODELS = "vllm.model_executor.models"

HANDED = {
    "serving/vllm/stats.py": {
        "self._config": "vllm.config:VllmConfig",
        "self._config.model_config": "vllm.config:ModelConfig",
        "cache": "vllm.config:CacheConfig",
        "scheduler_stats": f"{_STATS}:SchedulerStats",
        "prompts": f"{_STATS}:PrefixCacheStats",
    },
    "serving/vllm/metrics.py": {
        "stats": f"{_STATS}:IterationStats",
        "sequence": f"{_STATS}:FinishedRequestStats",
    },
    "compressor/latency/backends/vllm.py": {
        "engine": "vllm.v1.engine.llm_engine:LLMEngine",
        "self._engine": "vllm.v1.engine.llm_engine:LLMEngine",
        "engine.model_config": "vllm.config:ModelConfig",
        "engine.engine_core": "vllm.v1.engine.core_client:InprocClient",
        "output": "vllm.outputs:RequestOutput",
        "vllm.platforms.current_platform": "vllm.platforms.interface:Platform",
    },
    "artefact/modeling/vllm_attention.py": {
        "vllm_config": "vllm.config:VllmConfig",
        "vllm_config.model_config": "vllm.config:ModelConfig",
        "vllm_config.cache_config": "vllm.config:CacheConfig",
        "spec": "vllm.v1.kv_cache_interface:SlidingWindowSpec",
        "self.qkv_proj": "vllm.model_executor.layers.linear:QKVParallelLinear",
    },
    "artefact/modeling/vllm_lathe_llama.py": {
        "vllm_config": "vllm.config:VllmConfig",
        "vllm_config.model_config": "vllm.config:ModelConfig",
        "current_platform": "vllm.platforms.interface:Platform",
    },
    "artefact/modeling/vllm_lathe_moe.py": {
        "vllm_config": "vllm.config:VllmConfig",
        "vllm_config.model_config": "vllm.config:ModelConfig",
        "self.experts": "vllm.model_executor.layers.fused_moe.runner.moe_runner:MoERunner",
    },
    "artefact/modeling/vllm_lathe_gpt_oss.py": {
        "self.experts": "vllm.model_executor.layers.fused_moe.runner.moe_runner:MoERunner",
    },
    "artefact/modeling/vllm_plugin.py": {
        "ModelRegistry": f"{_MODELS}.registry:_ModelRegistry",
    },
}
"""By our file and expression: the class whose attributes and methods it is asked for."""
REPLACED = {
    f"{_MODELS}.llama:LlamaModel": ("norm", "embed_input_ids", "embed_tokens", "hf_to_vllm_mapper"),
    f"{_MODELS}.llama:LlamaForCausalLM": (
        "_init_model",
        "hf_to_vllm_mapper",
        "logits_processor",
        "packed_modules_mapping",
    ),
    f"{_MODELS}.llama:LlamaDecoderLayer": ("get_quant_config", "forward"),
    "vllm.model_executor.layers.attention:Attention": ("get_kv_cache_spec",),
    "vllm.v1.metrics.loggers:StatLoggerBase": ("record", "log_engine_initialized"),
}
"""What our classes put in the place of vLLM's own, which would have no effect under another name."""
GIVEN = {"vllm.model_executor.layers.fused_moe:FusedMoEFactory": ("has_bias",)}
"""Keywords that reach a function of vLLM's from another file than the call's."""
NAMED = {
    "v1/metrics/loggers.py": ("load_stat_logger_plugin_factories",),
    "plugins/__init__.py": ("vllm.general_plugins", "vllm.stat_logger_plugins"),
    "model_executor/layers/fused_moe/activation.py": ("swigluoai", "silu"),
    "model_executor/layers/fused_moe/unquantized_fused_moe_method.py": (
        "w13_weight",
        "w2_weight",
        "w13_bias",
        "w2_bias",
    ),
    "config/speculative.py": ("draft_model", "num_speculative_tokens"),
    "config/model.py": ('"auto"', '"vllm"', "generation_config"),
}
"""Strings that mean something in a file of vLLM's."""
