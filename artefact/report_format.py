"""The format of report.json, the report that an artefact carries.

Times are in milliseconds and sizes in bytes where a key does not name another unit. Keys that earlier
versions did not write are marked as not required.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

REPORT = "report.json"
REPORT_FORMAT = "lathe-report/1"


class DenseAndSubnet(TypedDict):
    """One number of the dense model and of the subnet."""

    dense: float
    subnet: float


class ModelFacts(TypedDict):
    """The dense model."""

    name: str
    path: str
    family: str


class Served(TypedDict):
    """The engine and the workload that the artefact was made for."""

    by: list[str]
    exports: list[str]
    tensor_parallel: int


class Repeats(TypedDict):
    """The repeats of a measurement, which were interleaved."""

    dense: list[float]
    subnet: list[float]


class LatencyPrecision(TypedDict):
    """The precision that a measurement of ratios of latencies reached.

    Attributes:
        standard_error: Of the ratio, relative to it; of several, the median. None after one load.
        largest_standard_error: Of several, the largest.
        loads: How often the models that were compared with the reference were loaded, together.
        outliers: Those of these loads that do not count.
        preempted: Turns in which another process took the processor away, which were done again.
        corrected: Turns whose processor time counts instead of time on the wall, for the same reason.
        seconds: How long the measurement took, loading included.
    """

    standard_error: float | None
    largest_standard_error: float | None
    loads: int
    outliers: int
    preempted: int
    corrected: int
    seconds: float


class PrecisionFacts(TypedDict):
    """The precision of the latency table, and of the artefact's ratio to dense; None where not measured."""

    table: LatencyPrecision | None
    artefact: LatencyPrecision | None


class Measured(TypedDict):
    """The artefact's latency against dense; None where it was not timed."""

    dense_ms: float | None
    measured_ms: float | None
    speedup: float | None
    turns_ms: Repeats | None
    spread: DenseAndSubnet | None


class PartsOfLatency(TypedDict):
    """Milliseconds by part: the step itself, the head, and every layer's two blocks.

    Earlier versions counted the head as part of the step.
    """

    step: float
    head: NotRequired[float]
    attention: list[float]
    ffn: list[float]


class LatencyParts(TypedDict):
    """Milliseconds by part of the dense model and of the subnet."""

    dense: PartsOfLatency
    subnet: PartsOfLatency


class PruningLimit(TypedDict):
    """What pruning does not shorten, as shares of the dense model's time, and the speed-up it can reach."""

    head_ms: float
    head_share: float
    ms: float
    share: float
    speedup: float


class LatencyFacts(Measured):
    """The workload, the target, and what was predicted and measured."""

    metric: str
    definition: str
    batch_size: int
    context: int
    output_tokens: int
    backend: str
    threads: int | None
    target_ms: float | None
    target_speedup: float | None
    tolerance: float
    predicted_ms: float | None
    profile: dict[str, Any] | None
    rounds: list[dict[str, Any]]
    parts_ms: NotRequired[LatencyParts | None]
    precision: NotRequired[PrecisionFacts]
    pruning_limit: NotRequired[PruningLimit | None]


class QualityLimit(TypedDict):
    """The allowed rise of perplexity, and the rounds that looked for it."""

    asked: float | None
    rounds: list[dict[str, Any]] | None


class Perplexity(DenseAndSubnet):
    """Perplexity on a text."""

    text: str
    tokens: int


class Loss(DenseAndSubnet):
    """Loss on the same text."""

    unit: str


class SearchKl(TypedDict):
    """The search's KL of the chosen plan, and the number of plans that it evaluated."""

    search: float
    unit: str
    candidates: int


class QualityFacts(TypedDict):
    """The quality of both models."""

    perplexity: Perplexity
    loss: Loss
    kl: SearchKl


class SizeFacts(TypedDict):
    """The sizes of both models: bytes are the checkpoint's.

    Attributes:
        kv_bytes_per_token: In the type that the graph keeps keys and values in.
        layers: Each as in `plan.json`.
        head_bits: Bits of embedding and head, where they are rounded.
    """

    parameters: DenseAndSubnet
    decoder_parameters_kept: float
    weight_bytes: DenseAndSubnet
    kv_bytes_per_token: DenseAndSubnet
    layers: list[dict[str, int]]
    head_bits: NotRequired[int]
    dense_layer: dict[str, int]


class GraphBytes(TypedDict):
    """Bytes of the weights before quantization, as float32, and after.

    Attributes:
        dense: Those of the dense model's graph, which the subnet's is compared with.
    """

    before: float
    after: float
    dense: NotRequired[float]


class RelativeError(TypedDict):
    """How far quantization moved the matrices, relative to their norms."""

    median: float
    max: float


class FormatFacts(TypedDict):
    """How many matrices have one of several formats, and how far quantization moved them."""

    matrices: int
    groups: NotRequired[dict[str, int]]
    relative_error: NotRequired[RelativeError]


class Quantization(TypedDict):
    """The effect of quantization, with loss and perplexity if they were measured.

    Attributes:
        formats: Of a scheme of several formats, each by its name.
        types: Of a GGUF file, the matrices and bytes of each type.
        llama_cpp: How far llama.cpp's logits are from those of the rounded values; None: not checked.
    """

    scheme: str
    weight_bytes: GraphBytes
    relative_error: RelativeError
    formats: NotRequired[dict[str, FormatFacts]]
    types: NotRequired[dict[str, Any]]
    llama_cpp: NotRequired[dict[str, Any] | None]
    loss: NotRequired[Loss]
    perplexity: NotRequired[DenseAndSubnet]


class CacheLoss(TypedDict):
    """The subnet's loss with a float32 and with an int8 KV cache."""

    float32: float
    int8: float
    unit: str


class KvCache(TypedDict):
    """An int8 KV cache, with what it does to loss and perplexity if that was measured apart.

    Attributes:
        perplexity: Of the dense model, whose cache is float32, and of the subnet, whose is int8.
    """

    type: str
    loss: NotRequired[CacheLoss]
    perplexity: NotRequired[DenseAndSubnet]


class KvCacheFacts(TypedDict):
    """The KV cache of the graph, in a report where it is not float32."""

    kv_cache: NotRequired[KvCache]


class QuantizationFacts(TypedDict):
    """The effect of quantization, in a report of quantized weights."""

    quantization: NotRequired[Quantization]


class WeightPattern(TypedDict):
    """The pattern of the weights of all matrices of layers.

    Attributes:
        name: N:M, the most weights of so many consecutive ones of a row that are not zero.
        method: How they were chosen and corrected.
        zeros: The share of zeros among them, as the checkpoint has them.
    """

    name: str
    method: str
    zeros: float


class PatternFacts(TypedDict):
    """The pattern of the weights, in a report of an artefact that has one."""

    pattern: NotRequired[WeightPattern]


class VocabularyRows(TypedDict):
    """Rows of the table of tokens, bytes of embedding and head, and the text that they were cut to."""

    text: str
    rows: DenseAndSubnet
    table_bytes: DenseAndSubnet


class LossPerByte(DenseAndSubnet):
    """Loss on the evaluation text by its bytes: also of the dense model with the kept tokens only."""

    cut: float
    unit: str


class Vocabulary(VocabularyRows):
    """A cut vocabulary."""

    loss_per_byte: LossPerByte


class VocabularyFacts(TypedDict):
    """What was kept of the vocabulary, in a report of a model whose vocabulary was cut."""

    vocabulary: NotRequired[Vocabulary]


class FrontPoint(TypedDict):
    """A plan on the front.

    Attributes:
        damage: The sum of its sensitivities.
        kept: The share of the decoder's parameters.
        bits_per_weight: The mean over the decoder's parameters, where a search chose their bits.
    """

    cost: float
    damage: float
    kept: float
    bits_per_weight: NotRequired[float]


class Front(TypedDict):
    """The plans of other budgets; `cost` names the unit of their costs."""

    cost: str
    unit: str
    points: list[FrontPoint]
    chosen: FrontPoint


class Samples(TypedDict):
    """The texts of both models after the same prompts."""

    tokens: int
    decoding: str
    rows: list[dict[str, Any]]


class Parity(TypedDict):
    """The largest difference of the runtimes' logits; None where it was not measured.

    llama.cpp is compared where a GGUF file was written.
    """

    onnx_vs_transformers: float | None
    llama_cpp_vs_transformers: NotRequired[float | None]
    unit: str


class DeviceFacts(TypedDict):
    """The device that search and reconstruction ran on."""

    name: str
    stage_peak_memory_bytes: dict[str, int] | None


class ResourceFacts(TypedDict):
    """The machine, and the time and memory that the run took."""

    machine: dict[str, Any]
    seconds: dict[str, float]
    peak_memory_bytes: int
    stage_peak_memory_bytes: dict[str, int]
    memory: dict[str, Any]
    device: DeviceFacts


class Report(
    QualityFacts, SizeFacts, QuantizationFacts, KvCacheFacts, PatternFacts, VocabularyFacts, ResourceFacts
):
    """The document of report.json."""

    format: str
    lathe: str
    command: str
    model: ModelFacts
    method: str
    served: NotRequired[Served]
    met: bool | None
    latency: LatencyFacts
    max_perplexity_increase: NotRequired[QualityLimit]
    parity: Parity
    front: NotRequired[Front | None]
    samples: NotRequired[Samples]
    calibration: dict[str, Any]
    warnings: NotRequired[list[str]]
    seed: int


def served_weights(report: Report) -> DenseAndSubnet:
    """Returns the bytes of the weights as they are served: of a quantized graph, else of the checkpoint."""
    graph = report["quantization"]["weight_bytes"] if "quantization" in report else None
    if graph is None or "dense" not in graph:
        return report["weight_bytes"]
    return {"dense": graph["dense"], "subnet": graph["after"]}


def served_perplexity(report: Report) -> DenseAndSubnet:
    """Returns the perplexities as served: of quantized graphs or caches, where they were measured."""
    for stored in (report.get("quantization"), report.get("kv_cache")):
        if stored and "perplexity" in stored:
            return stored["perplexity"]
    return report["perplexity"]
