# One word each: demo, test, test-<category>, check, fix, bench, docs.

VENV ?= .venv
PY := $(VENV)/bin/python
# Which build of torch is installed is yours to say, in one variable; the default is what the configured index serves.
# CPU only:  make TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu" demo   (saves gigabytes on Linux)
# CUDA:      make TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu128" demo
TORCH ?= torch==2.13.0
WORKSPACE ?= demo
CATEGORIES := unit spec reference generative integration functional architecture
SOURCES := platform etl modeling migrations tests benchmarks docs

.PHONY: install demo test check fix bench docs lock audit $(addprefix test-,$(CATEGORIES))

install: $(VENV)/.installed

$(VENV)/.installed: constraints.txt pyproject.toml
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r constraints.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: install
	$(VENV)/bin/platform demo --out $(WORKSPACE)

# Two processes, a file each at a time: quarter of an hour on two cores. One process: make test JOBS=0
JOBS ?= 2
test: install
	$(PY) -m pytest tests -n $(JOBS) --dist loadfile

$(addprefix test-,$(CATEGORIES)): test-%: install
	$(PY) -m pytest tests/$*

check: install
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) tests/architecture/gate.py
	$(PY) docs/generate.py --check

fix: install
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

bench: install
	$(PY) benchmarks/bench_etl.py
	$(PY) benchmarks/bench_labeling.py

docs: install
	$(PY) docs/generate.py

# Resolve every dependency again and pin it with hashes; torch and the GPU libraries that its builds bring stay out.
lock:
	$(PY) -m pip install --quiet pip-tools
	$(PY) -m piptools compile --quiet --generate-hashes --extra dev --allow-unsafe --unsafe-package torch --strip-extras \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header --no-emit-options --no-annotate \
	  --output-file constraints.new pyproject.toml
	( head -2 constraints.txt; awk '/^(nvidia-|cuda-|triton|#)/ {skip=1; next} /^[a-z0-9]/ {skip=0} !skip' constraints.new ) > constraints.lock
	mv constraints.lock constraints.txt && rm constraints.new

audit: install
	@$(PY) -m pip_audit --require-hashes --disable-pip -r constraints.txt || echo "audit: no advisory database reachable, or findings above"
