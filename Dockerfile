# Images that serve an artefact: `docker build --target cpu -t lathe:cpu .` or `--target gpu`.
#
# Both digests are of multi-platform indexes. No registry is reached from where this was written: they were read in
# public repositories' files through a search index on 2026-11-25, where they are recorded as resolved on 2026-08-08.
# Renew: `docker buildx imagetools inspect python:3.11-slim-bookworm`, and likewise the other.
ARG SLIM=python:3.11-slim-bookworm@sha256:d29f48a31a8b408ed19272ca1e7b10ebae13b240a27e862d3d4217c528e2e0c3
ARG FULL=python:3.11-bookworm@sha256:a8f8fbe1a0edc9e4dddafa64ba73f7e04be7be5ebc23f332362e779e0a2e4e52

FROM ${SLIM} AS wheel
WORKDIR /src
COPY deploy/requirements/build.txt deploy/requirements/
RUN pip install --no-cache-dir --require-hashes -r deploy/requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
# Without the compressor, which serving does not import: lathe/compressor is a link to nothing here.
COPY lathe lathe
COPY artefact artefact
COPY serving serving
RUN pip wheel --no-cache-dir --no-deps --no-index --no-build-isolation --wheel-dir /wheels .

FROM ${SLIM} AS cpu-packages
COPY deploy/requirements/cpu.txt /
RUN python -m venv /opt/lathe && /opt/lathe/bin/pip install --no-cache-dir --require-hashes \
    --only-binary :all: --no-deps -r /cpu.txt
COPY --from=wheel /wheels /wheels
RUN /opt/lathe/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl

FROM ${FULL} AS gpu-packages
COPY deploy/requirements/gpu.txt /
RUN python -m venv /opt/lathe && /opt/lathe/bin/pip install --no-cache-dir --require-hashes \
    --only-binary :all: --no-deps -r /gpu.txt
COPY --from=wheel /wheels /wheels
RUN /opt/lathe/bin/pip install --no-cache-dir --no-index --no-deps /wheels/*.whl

# vLLM: paged KV cache, tensor and pipeline parallel, and the engine that Lathe's GPU plans are measured on. From its
# wheels, not from vllm/vllm-openai, whose digest for this version could not be read here. The full base, because
# Triton compiles its launchers with gcc when the server starts. CUDA comes with the wheels, the driver from the host.
FROM ${FULL} AS gpu
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin lathe
COPY --from=gpu-packages /opt/lathe /opt/lathe
ENV PATH=/opt/lathe/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# Ready, not live: what waits for this container wants answers. Loading and compiling may take minutes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["lathe", "serve"]
CMD ["/model", "--host", "0.0.0.0", "--engine", "vllm"]

# ONNX Runtime, without torch, which serving does not import.
FROM ${SLIM} AS cpu
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin lathe
COPY --from=cpu-packages /opt/lathe /opt/lathe
ENV PATH=/opt/lathe/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["lathe", "serve"]
CMD ["/model", "--host", "0.0.0.0"]
