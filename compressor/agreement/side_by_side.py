"""Our reading of a dense model, going along with transformers' own model of it.

Shapes: T tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers

from lathe.artefact.errors import UserError
from lathe.compressor.compute.array_store import ArrayStore
from lathe.compressor.model.checkpoint import Checkpoint
from lathe.compressor.model.decoder import LayeredModel
from lathe.compressor.model.families import stored_name
from lathe.compressor.model.names import EMBEDDING, FINAL_NORM, LM_HEAD, layer_prefix

_TOLERANCE = 2e-4
"""Largest difference, relative to the spread (root mean square) of what a layer adds, or of the logits."""
_ROUNDING = 32 * torch.finfo(torch.float32).eps
"""Of the largest value there is: a stream with a few huge values is not known better."""
_SEEN = frozenset(
    (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "transformers_version",
        "architectures",
        "model_type",
        "dtype",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "use_cache",
        "_name_or_path",
        "tie_word_embeddings",
        "num_local_experts",
        "num_experts",
        "moe_intermediate_size",
        "ffn_dim",
        "initializer_range",
        "quantization_config",
    )
)
"""Settings that are seen in shapes, or that no layer reads."""
_SCALE = "its table of tokens, or what that is multiplied by or added to, is another"


class Alongside:
    """Gives every layer of transformers' models what ours reads there, and compares what they give.

    Args:
        config: transformers' own.
        ids: the tokens, each once.
        whole: whether its models know all tokens, rather than these.
    """

    def __init__(self, source: Checkpoint, config: Any, ids: torch.Tensor, whole: bool) -> None:
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))
        self._source, self._config = source, config
        self._tokens = ids[order] if whole else order
        self._rows = None if whole else ids
        self._ours = LayeredModel.open(
            source, ArrayStore(source.path)
        )  # bounded: a layer is read when asked for
        self._stream = self._ours.embedding[ids[order][None]]
        self.largest = 0.0

    def along(self, model: Any, first: int) -> None:
        """A model of transformers', whose first layer is this one of ours.

        Raises:
            UserError: they differ.
        """
        hooks = []
        for at in range(model.config.num_hidden_layers):
            layer = model.get_submodule(self._name(layer_prefix(at)))
            hooks += [
                layer.register_forward_pre_hook(self._incoming(first + at), with_kwargs=True),
                layer.register_forward_hook(self._outgoing(first + at)),
            ]
        norm = model.get_submodule(self._name(f"{FINAL_NORM}."))
        hooks.append(norm.register_forward_pre_hook(lambda *_: (self._stream,)))
        try:
            logits = model(input_ids=self._tokens[None], use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()
        if first + model.config.num_hidden_layers == self._source.shape.num_layers:
            self._compare_logits(model, norm, logits)

    def _name(self, name: str) -> str:
        return stored_name(self._source.family, name).removesuffix(".")

    def _incoming(self, index: int) -> Any:
        def hook(_layer: Any, given: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            theirs = given[0] if given else kwargs["hidden_states"]
            if index == 0:
                self._compare("the embedding", self._stream, theirs, self._stream, lambda: _SCALE)
            if given:
                return (self._stream, *given[1:]), kwargs
            return given, kwargs | {"hidden_states": self._stream}

        return hook

    def _outgoing(self, index: int) -> Any:
        def hook(layer: Any, _given: Any, output: Any) -> None:
            theirs = output if isinstance(output, torch.Tensor) else output[0]
            ours = self._ours.runner.at(index).layer(self._ours.layers[index], self._stream)
            prefix = self._name(layer_prefix(index))
            self._compare(
                f"layer {index}", ours, theirs, ours - self._stream, lambda: self._cause({prefix: layer})
            )
            self._stream = ours

        return hook

    def _compare_logits(self, model: Any, norm: Any, theirs: torch.Tensor) -> None:
        source = self._source
        table = EMBEDDING if source.shape.tied_embeddings else LM_HEAD
        weight = source.tensor(f"{table}.weight", self._rows)
        ours = self._ours.head.logits(self._stream, weight)

        def cause() -> str:
            if not torch.equal(model.get_output_embeddings().weight, weight):
                return f"its head is not `{self._name(f'{table}.weight')}`"
            return self._cause({self._name(f"{FINAL_NORM}."): norm})

        self._compare("what is behind the layers", ours, theirs, ours - ours.mean(), cause)

    def _compare(
        self,
        where: str,
        ours: torch.Tensor,
        theirs: torch.Tensor,
        part: torch.Tensor,
        cause: Callable[[], str],
    ) -> None:
        """part: of ours, what the difference is measured by."""
        if not (ours.isfinite().all() or theirs.isfinite().all()):
            raise UserError(
                f"{self._source.path} computes NaN or infinity, first in {where}",
                f"Is a setting of config.json wrong (not as usual: {self._unusual()}), or are weights huge?",
            )
        difference = float((ours - theirs).abs().max())
        spread = max(float(part.square().mean().sqrt()), torch.finfo(torch.float32).tiny)
        if difference <= _TOLERANCE * spread + _ROUNDING * float(ours.abs().max()):
            self.largest = max(self.largest, difference / spread)
            return
        raise UserError(
            f"transformers {transformers.__version__} computes something else from {self._source.path} than "
            f"Lathe does: {where} differs first, by {difference / spread:.1g} of its spread: {cause()}",
            "The result would be of another model than the one you know: correct the folder, or report it to "
            "us with its config.json.",
        )

    def _cause(self, modules: Mapping[str, Any]) -> str:
        """Returns the cause of a difference in transformers' modules, by the names of the checkpoint."""
        index = self._source.index
        for prefix, module in modules.items():
            for name, value in module.state_dict().items():
                entry = index.get(f"{prefix}.{name}")
                if entry and not (entry.shape == value.shape and torch.equal(entry.read().float(), value)):
                    return f"its `{prefix}.{name}` is not the one that is stored in {entry.file.name}"
        return (
            "its weights are the same, so a setting of config.json is read in another way (not as usual: "
            f"{self._unusual()})"
        )

    def _unusual(self) -> str:
        """The settings that are not transformers' defaults, by name."""
        usual = type(self._config)().to_dict()
        given = {name for name, value in self._config.to_dict().items() if value != usual.get(name, _SEEN)}
        return ", ".join(sorted(given - _SEEN)) or "none"
