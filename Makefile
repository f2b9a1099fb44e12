# `make help` lists what there is. Every target sets itself up; the first one that runs makes .venv/.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
STAMP := .venv/.stamp
VLLM_STAMP := .venv-vllm/.stamp
DEMO := demo

.PHONY: help venv check format test test-postgres test-vllm demo bench-memory bench-overhead bench-prefix-cache bench-routing bench-search bench-speculative bench-techniques clean

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

test-postgres: $(STAMP) ## The tests of database and memories on a real PostgreSQL server, started for them
	$(BIN)/python scripts/with_postgres.py $(BIN)/python -m pytest tests/store tests/memory

# Makes .venv-vllm/ where that is due; ends the recipe well where the package index has no vLLM for this machine.
define NEED_VLLM
test $(VLLM_STAMP) -nt scripts/vllm-venv.sh -a $(VLLM_STAMP) -nt pyproject.toml || PYTHON="$(PYTHON)" ./scripts/vllm-venv.sh; \
code=$$?; if [ $$code -eq 3 ]; then exit 0; elif [ $$code -ne 0 ]; then exit $$code; fi; touch $(VLLM_STAMP)
endef

test-vllm: ## The tests against a real vLLM, in an environment of its own; skipped where no package of it fits
	@$(NEED_VLLM) && .venv-vllm/bin/python -m pytest tests_vllm

demo: $(STAMP) ## Search a small space of pipelines on the pocket models; report and best.yaml in demo/
	@mkdir -p $(DEMO)
	@$(BIN)/inferloom search demo --name demo --db sqlite:///$(DEMO)/inferloom.db --out $(DEMO)

bench-techniques: $(STAMP) ## Every technique on the pocket suite, beside the baselines at equal cost; ARGS="--card" writes docs/techniques.md
	$(BIN)/python benchmarks/techniques.py $(ARGS)

bench-search: $(STAMP) ## Calls that searches need, replayed on a pool that is made first (an hour); ARGS="--card" writes docs/search.md
	$(BIN)/python benchmarks/search_pool.py
	$(BIN)/python benchmarks/search.py $(ARGS)

bench-routing: $(STAMP) ## What learned routing is worth, on draws that are made first (20 minutes); ARGS="--card" writes docs/routing.md
	$(BIN)/python benchmarks/search_pool.py
	$(BIN)/python benchmarks/routing_pool.py
	$(BIN)/python benchmarks/routing.py $(ARGS)

bench-speculative: $(STAMP) ## Speculative reasoning with the pocket pair beside its controls; ARGS="--card" writes docs/speculative.md
	$(BIN)/python benchmarks/speculative.py $(ARGS)

bench-prefix-cache: ## How much of spec_reason's prompts vLLM's prefix cache holds; ARGS="--card" writes docs/vllm.md
	@$(NEED_VLLM) && PYTHONPATH=. .venv-vllm/bin/python benchmarks/prefix_cache.py $(ARGS)

bench-memory: $(STAMP) ## What a memory gains, keeps under a limit, and costs to read; ARGS="--card" writes docs/memory.md
	$(BIN)/python benchmarks/memory.py $(ARGS)

bench-overhead: $(STAMP) ## CPU per node beside a bare LangGraph graph of the same shape
	$(BIN)/python benchmarks/overhead.py

clean: ## Remove .venv/, the demo's output and caches
	rm -rf .venv .venv-vllm $(DEMO) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
