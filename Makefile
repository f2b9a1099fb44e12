# `make help` lists what there is. Every target sets itself up; the first one that runs makes .venv/.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
STAMP := .venv/.stamp
VLLM_STAMP := .venv-vllm/.stamp
CLIENTS_STAMP := .venv-clients/.stamp
DEMO := demo

.PHONY: help venv check format test test-browser test-postgres test-vllm demo pictures test-clients bench-effort bench-memory bench-overhead bench-prefix-cache bench-replay bench-routing bench-search bench-serve bench-speculative bench-techniques bench-traffic clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## Set up .venv/ (once; the other targets do it themselves)

$(STAMP): pyproject.toml constraints.txt scripts/venv.sh
	@PYTHON="$(PYTHON)" ./scripts/venv.sh
	@touch $@

check: $(STAMP) ## Lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Mend what the linter and the formatter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(STAMP) ## Every test
	$(BIN)/python -m pytest

test-postgres: $(STAMP) ## The tests of database, memories, workers and agents' threads on a real PostgreSQL server, started for them
	$(BIN)/python scripts/with_postgres.py $(BIN)/python -m pytest tests/store tests/memory tests/search/test_workers.py tests/search/test_outages.py tests/pipelines/test_embedding.py

test-browser: $(STAMP) ## The pages in a real browser; skipped, with the reason, where this machine has no Chromium
	@$(NEED_PLAYWRIGHT)
	@PYTHON=$(BIN)/python ./scripts/tool-venv.sh dashboard optuna-dashboard==0.21.0
	$(BIN)/python -m pytest tests_browser -rs

# Installs what drives a browser; the browser itself is the machine's.
NEED_PLAYWRIGHT = $(BIN)/python -c 'import playwright' 2>/dev/null || \
	$(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt --group browser

# Makes .venv-vllm/ where that is due; ends the recipe well where the package index has no vLLM for this machine.
define NEED_VLLM
test $(VLLM_STAMP) -nt scripts/vllm-venv.sh -a $(VLLM_STAMP) -nt pyproject.toml || PYTHON="$(PYTHON)" ./scripts/vllm-venv.sh; \
code=$$?; if [ $$code -eq 3 ]; then exit 0; elif [ $$code -ne 0 ]; then exit $$code; fi; touch $(VLLM_STAMP)
endef

test-vllm: ## The tests against a real vLLM, in an environment of its own; skipped where no package of it fits
	@$(NEED_VLLM) && .venv-vllm/bin/python -m pytest tests_vllm

$(CLIENTS_STAMP): scripts/clients-venv.sh
	@PYTHON="$(PYTHON)" ./scripts/clients-venv.sh
	@touch $@

test-clients: $(STAMP) $(CLIENTS_STAMP) ## The server as OpenAI's and LangChain's clients, curl, two evaluation harnesses and a fuzzer use it
	.venv-clients/bin/python -m pytest tests_clients

demo: $(STAMP) ## Search a small space of pipelines on the pocket models; report and best.yaml in demo/
	@mkdir -p $(DEMO)
	@$(BIN)/inferloom search demo --name demo --db sqlite:///$(DEMO)/inferloom.db --out $(DEMO)

pictures: $(STAMP) ## The pictures of README and docs, from a search of its own (minutes); needs Chromium
	@$(NEED_PLAYWRIGHT)
	PYTHONPATH=. $(BIN)/python scripts/pictures.py

bench-techniques: $(STAMP) ## Every technique on the pocket suite, beside the baselines at equal cost; ARGS="--card" writes docs/techniques.md
	$(BIN)/python benchmarks/techniques.py $(ARGS)

bench-search: $(STAMP) ## Calls that searches need, replayed on a pool that is made first (an hour); ARGS="--card" writes docs/search.md
	$(BIN)/python benchmarks/search_pool.py
	$(BIN)/python benchmarks/search.py $(ARGS)

bench-routing: $(STAMP) ## What learned routing is worth, on draws that are made first (20 minutes); ARGS="--card" writes docs/routing.md
	$(BIN)/python benchmarks/search_pool.py
	$(BIN)/python benchmarks/routing_pool.py
	$(BIN)/python benchmarks/routing.py $(ARGS)

bench-serve: $(STAMP) ## The server under 32 clients beside the ideal, its_hub's and optillm's; ARGS="--card" writes docs/serving.md
	$(BIN)/python benchmarks/serve.py $(ARGS)

bench-speculative: $(STAMP) ## Speculative reasoning with the pocket pair beside its controls; ARGS="--card" writes docs/speculative.md
	$(BIN)/python benchmarks/speculative.py $(ARGS)

bench-prefix-cache: ## How much of spec_reason's prompts vLLM's prefix cache holds; ARGS="--card" writes docs/vllm.md
	@$(NEED_VLLM) && PYTHONPATH=. .venv-vllm/bin/python benchmarks/prefix_cache.py $(ARGS)

bench-effort: $(STAMP) ## Learned cascades beside fixed numbers of samples, on draws that are made first (20 minutes); ARGS="--card" writes docs/effort.md
	$(BIN)/python benchmarks/draws.py
	$(BIN)/python benchmarks/effort.py $(ARGS)

bench-traffic: $(STAMP) ## A router that learns while it serves, on simulated traffic; ARGS="--card" writes docs/traffic.md
	$(BIN)/python benchmarks/search_pool.py
	$(BIN)/python benchmarks/traffic.py $(ARGS)

bench-memory: $(STAMP) ## What a memory gains, keeps under a limit, and costs to read; ARGS="--card" writes docs/memory.md
	$(BIN)/python benchmarks/memory.py $(ARGS)

bench-replay: $(STAMP) ## Trials from a full bank on one core, alone and beside a million other completions
	$(BIN)/python benchmarks/replay.py

bench-overhead: $(STAMP) ## CPU per node beside a bare LangGraph graph of the same shape
	$(BIN)/python benchmarks/overhead.py

clean: ## Remove .venv/, the demo's output and caches
	rm -rf .venv .venv-vllm .venv-clients .venv-rivals $(DEMO) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
