# Two commands on a fresh machine: `make quickstart` and `make test`. Each makes .venv and installs what it needs first.

# The first Python here that is 3.11 or 3.12; override with PYTHON=...
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/quickstart
REFERENCES ?= build/parity
TORCH_VENV ?= .venv-parity
# Test files that run side by side.
JOBS ?= 2

.PHONY: quickstart test test-all test-faults parity lint types clean

quickstart: $(VENV)/.installed
	$(BIN)/python -m llm_jax.train --config=configs/quickstart.py --workdir=$(RUN)
	$(BIN)/python -m llm_jax.evaluate --workdir=$(RUN)
	$(BIN)/python -m llm_jax.generate --workdir=$(RUN) --prompt="The " --max_new_tokens=120 --temperature=0.7
	@echo "report: $(RUN)/report.html"

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-all: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not faults"

test-faults: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m faults

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy

# Writes reference outputs with PyTorch, in an environment of its own, and compares every case.
parity: $(VENV)/.installed-test $(TORCH_VENV)/.installed
	$(TORCH_VENV)/bin/python tests/parity/generate.py $(REFERENCES) --seed $${SEED:-0}
	$(BIN)/python tests/parity/compare.py $(REFERENCES) --save build/parity_saved
	$(TORCH_VENV)/bin/python tests/parity/read_back.py build/parity_saved $(REFERENCES)
	$(TORCH_VENV)/bin/python tests/parity/generate_networks.py $(REFERENCES)_networks --seed $${SEED:-0}
	$(BIN)/python tests/parity/compare.py $(REFERENCES)_networks

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or 3.12 is needed; none is on the PATH (set PYTHON=...)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/.installed: $(VENV)/.made requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.made requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet -e ".[test]"
	@touch $(VENV)/.installed $@

$(TORCH_VENV)/.installed:
	$(PYTHON) -m venv $(TORCH_VENV)
	$(TORCH_VENV)/bin/python -m pip install --quiet torch==2.13.0
	$(TORCH_VENV)/bin/python -m pip install --quiet transformers==5.23.0 peft==0.21.2 safetensors==0.8.0
	@touch $@

clean:
	rm -rf $(VENV) $(TORCH_VENV) build .pytest_cache .mypy_cache .ruff_cache
