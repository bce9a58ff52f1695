# Evenkeel: try it, test it, measure it. Each target first installs what it needs and the machine lacks, with .ci/setup.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run demo live test chaos lint bench plugin chart clean

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
CONFIG ?= docs/run.yaml
TRACE  ?=
PREFIX_TRACE ?=
DURATION ?= 30m
SEED   ?=

# The programs and files that tests and the load tester use. The environment can override each variable.
export EVENKEEL_ENVOY ?= $(abspath .tools/envoy/envoy/_bin/envoy)
export EVENKEEL_PYTHON ?= $(abspath .tools/python/bin/python)
export EVENKEEL_PAGE_TOOLS ?= $(abspath .tools/page)
export EVENKEEL_PLUGIN_WASM ?= $(abspath out/plugin/evenkeel_plugin.wasm)
export EVENKEEL_PLUGIN_HIGRESS_WASM ?= $(abspath out/plugin/evenkeel_plugin_higress.wasm)

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{printf "  make %-10s %s\n", $$1, $$2}'

run: ## Build the sidecar and run it; CONFIG=file for a configuration of your own
	@.ci/setup compiler
	.ci/build-quick evenkeel
	@printf '\n  In another terminal:  %s\n' '$(TARGET)/quick/evenkeel admit --cluster llm --hold 30s'
	@exec $(TARGET)/quick/evenkeel serve --config $(CONFIG)

demo: tools plugin quick ## Compare balancing policies on real gateways and two traces, report in out/demo/; TRACE=file PREFIX_TRACE=file
	EVENKEEL_BIN=$(TARGET)/quick/evenkeel \
	$(TARGET)/quick/evenkeel-loadtest demo --out out/demo $(if $(TRACE),--trace $(TRACE)) $(if $(PREFIX_TRACE),--prefix-trace $(PREFIX_TRACE))

live: tools plugin quick ## Run a whole system under traffic until Ctrl-C: look at its page, metrics and terminal
	@EVENKEEL_BIN=$(TARGET)/quick/evenkeel exec $(TARGET)/quick/evenkeel-loadtest live

bench: tools plugin ## Measure one sidecar and what it adds to a request; figures in out/bench*/
	@mkdir -p out
	cargo run --locked -p evenkeel-plugin --profile plugin --example reading_speed | tee out/bench-plugin.txt
	cargo build --locked --release -p evenkeel -p evenkeel-loadtest --bins
	for kind in decisions rate-limits transport-security filters; do \
	EVENKEEL_BIN=$(TARGET)/release/evenkeel $(TARGET)/release/evenkeel-loadtest bench $$kind; done

chaos: ## Break sidecars, gateways and Redis for 30 minutes, and check counts and charges; DURATION=2m SEED=7
	@.ci/setup compiler redis
	.ci/build-quick evenkeel evenkeel-loadtest
	EVENKEEL_BIN=$(TARGET)/quick/evenkeel \
	$(TARGET)/quick/evenkeel-loadtest chaos --duration $(DURATION) $(if $(SEED),--seed $(SEED)) --out out/chaos

.PHONY: tools quick
tools:
	@.ci/setup compiler redis envoy wasm

quick:
	.ci/build-quick evenkeel evenkeel-loadtest

# Building the tests also builds the programs in target/debug, with the features that the tests need, so that nothing is
# built twice. The output of the last command ends with cargo test's own summary.
TESTS := --locked --workspace --lib --bins --tests
test: tools plugin ## Run every test, end-to-end ones with real Redis, Envoy, Prometheus, Chromium and OpenAI client included
	@.ci/setup prometheus python browser tmux chart
	cargo test $(TESTS) --no-run
	cd helm/tests && EVENKEEL_BIN=$(TARGET)/debug/evenkeel $(abspath .tools/chart/python/bin/python) -B -m unittest
	cargo test --locked --workspace --doc
	EVENKEEL_BIN=$(TARGET)/debug/evenkeel EVENKEEL_IT_REQUIRED=1 \
	cargo test $(TESTS)

.PHONY: pictures
pictures: tools ## Take the pictures of the page in docs/images/ anew; five minutes of traffic first
	@.ci/setup browser
	cargo test $(TESTS) --no-run
	EVENKEEL_BIN=$(TARGET)/debug/evenkeel \
	cargo test --locked -p evenkeel-loadtest --test it -- --ignored --nocapture pictures_of_the_page

lint: ## Formatting, clippy, Lua, dependencies, documentation
	@.ci/setup compiler linters deny wasm
	cargo fmt --all --check
	@.ci/check-text
	@.ci/check-docs
	@.ci/check-language
	@.ci/check-cycles
	@.ci/assemble-lua out/lua
	luacheck --quiet out/lua
	.tools/deny/bin/cargo-deny --locked check bans licenses sources
	cargo clippy --locked --workspace --all-targets -- -D warnings
	.ci/clippy-plugin

plugin: ## Build the Wasm plugin, for Envoy and Istio and for Higress, into out/plugin/
	@.ci/setup compiler wasm
	.ci/build-plugin

chart: ## Lint the Helm chart and package it into out/chart/, with the manifests of a trial
	@.ci/setup chart
	.tools/chart/helm lint --strict helm/evenkeel --set redis.mode=bundled
	@mkdir -p out/chart
	.tools/chart/helm template evenkeel helm/evenkeel --namespace gateways --set redis.mode=bundled >out/chart/trial.yaml
	.tools/chart/helm package helm/evenkeel --destination out/chart

.PHONY: advisories sbom
advisories: ## Look for known vulnerabilities in dependencies; needs the network, to fetch the RustSec database
	@.ci/setup deny
	.tools/deny/bin/cargo-deny --locked check advisories

sbom: ## Write the bills of materials of the sidecar and the plugin, as CycloneDX, into out/sbom/
	@.ci/setup compiler sbom
	.ci/build-sbom

clean: ## Remove everything make has built or fetched
	cargo clean
	rm -rf out .tools
