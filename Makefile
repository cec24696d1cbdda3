# Verbs over the scripts in .ci; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help demo test torture oracle bench check doc setup

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## Ingest real text, edit it, die in the middle, recover, search (FOLDER=… for a folder of yours)
	@bash .ci/cargo run --locked --quiet --example demo -- "$(FOLDER)"

test: ## All tests: unit, integration, SQL, doc
	@bash .ci/test

torture: setup ## Kill a writing process at random moments and check what survived (KILLS=100, SEED=…)
	@LSM_KILLS=$(or $(KILLS),100) $(if $(SEED),LSM_SEED=$(SEED)) bash .ci/cargo test --locked --test it -- torture --nocapture

oracle: setup ## Random operations against a model (OPS=10000 for each kind of table, SEED=… to repeat one)
	@LSM_OPS=$(or $(OPS),10000) $(if $(SEED),LSM_SEED=$(SEED)) bash .ci/cargo test --locked --test it -- model::a_ --nocapture

bench: setup ## Benches beside Lance's own implementation, optimised (BENCH=… for one of them)
	@bash .ci/cargo bench --locked $(if $(BENCH),--bench $(BENCH),--benches)

check: ## Everything a change has to pass
	@bash .ci/run

doc: setup ## The API documentation, as HTML in the target directory
	@bash .ci/cargo doc --locked --no-deps --lib --examples

setup: ## Install what is missing: C compiler, Rust, protoc, and mold and cargo-nextest when they can be had
	@bash .ci/setup
