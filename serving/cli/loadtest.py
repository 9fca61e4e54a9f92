"""`lathe loadtest`: what a server does under load, and dense beside subnet."""

from __future__ import annotations

from lathe.artefact.command_options import command_of
from lathe.serving.loadtest.options import LoadTestOptions


@command_of(LoadTestOptions)
def loadtest(options: LoadTestOptions) -> None:
    """Measure time to first token, time per token, throughput and memory of a server.

    Works on any OpenAI-compatible server, at https://HOST/v1 or any other version or path. Fields that a
    server refuses by name are left out, and the report lists them. A directory is served for the time of the
    test. With --against both models are served, and their rounds are interleaved, so that a slow moment of
    the machine affects both; the report shows them side by side. With --slo the load is doubled, and then
    bisected, until the highest one is found that keeps the limits. Exits with 1 if a request failed, with
    --slo only at the lowest load.

    Examples:
      lathe loadtest out/ --against models/dense

      lathe loadtest out/ --against models/dense --slo 'tpot=30ms,ttft=200ms' --html most.html

      lathe loadtest out/ --against models/dense --concurrency 8 --rounds 5 -o loadtest.json

      lathe loadtest http://127.0.0.1:8000 --rate 4 --duration 60

      lathe loadtest http://127.0.0.1:8000 --concurrency 1 --ramp-to 16 --duration 120

      lathe loadtest http://127.0.0.1:8000 --trace monday.jsonl --json > run.json

      lathe loadtest --config load.yaml   # load.yaml: {target: out, against: models/dense, concurrency: 8}
    """
    from lathe.serving.loadtest.command import carry_out

    carry_out(options)
