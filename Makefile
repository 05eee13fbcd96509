# The everyday commands. `make help` lists them.
SHELL := /bin/bash
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.DEFAULT_GOAL := help
.PHONY: help demo run build test wheel check bench soak setup fmt

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */\1|/' | while IFS='|' read -r name text; do printf '  make %-7s %s\n' "$$name" "$$text"; done

setup: ## install what the build needs (Debian packages; names the command for the rest)
	@ops/setup.sh

# Always the whole workspace: a part of it alone would resolve other features, and compile its dependencies once more.
# The first build takes some minutes and shows its progress; later ones are quiet.
build: setup ## build every program
	@if [ -x $(TARGET)/debug/memori ]; then quiet=--quiet; else echo "building; the first time takes some minutes" >&2; fi; \
	$(CARGO) build --locked --workspace --bins $$quiet

demo: build ## the main job, embedded: conversations in, facts out; no server, no key
	@$(TARGET)/debug/memori demo

run: build ## leave the embedded system up on 127.0.0.1:7700
	@$(TARGET)/debug/memori up

test: setup ## everything, on its own Kafka and Postgres
	@ops/test.sh

check: setup ## format, lints, licences, spelling
	@ops/check.sh

wheel: setup ## the Python wheel for people, into target/wheels
	@ops/wheel.sh

bench: setup ## ratios to this machine's floors, into target/bench/results.json
	@ops/bench.sh

soak: setup ## the large sizes, with printed seeds
	@MEMORI_SOAK=1 ops/test.sh

fmt: ## format the code
	@$(CARGO) fmt --all
