# `make` lists what can be made. The recipes are scripts under e2e/ that can also be called by hand.
.DEFAULT_GOAL := help
# Packages are never chosen: that would change the features of what they are linked to, and compile it once more.
TARGET := $(or $(CARGO_TARGET_DIR),target)/debug
.PHONY: help setup build images gen check test test-long test-unit test-e2e world-up world-down pictures demo demo-down bench campaign faults \
	bench-agent bench-fleet bench-scheduler bench-settlement bench-verify contracts-build contracts-test contracts-abi contracts-layout contracts-gas-snapshot contracts-mutants \
	contracts-prove contracts-slither contracts-deploy gas

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install and build what the demo and the tests need
	@e2e/setup.sh

build: ## compile everything (profile dev)
	cargo build --workspace --locked

images: build ## pack the images into .build/images, without a Docker engine
	e2e/images/pack.sh

gen: ## write the generated manifests again
	cargo build --workspace --all-targets --locked
	$(TARGET)/crdgen
	charts/render.sh

check: ## formatting, lints, generated files, charts, scripts
	@e2e/verify.sh check

test: ## everything: check, unit and property tests, stories on a real cluster
	@e2e/verify.sh all

test-long: contracts-mutants contracts-prove contracts-slither ## what is too long for every run: big campaigns, long outages, mutants, proofs, the Dockerfile
	@FOUNDRY_PROFILE=long contracts/test.sh
	@e2e/verify.sh long
	@FUZZ_RUNS=$(or $(FUZZ_RUNS),200000) cargo test --quiet --profile bench --workspace --locked --lib --bins -- fuzz
	@e2e/images/dockerfile-build.sh
	@operator/tests/buckets.sh
	@DURATION=$(or $(DURATION),1800) device-agent/bench.sh
	@$(MAKE) --no-print-directory campaign
	@operator/tests/chain/campaign/bugs.sh

campaign: ## settlement with everything going wrong that can, from a seed: RUNS=10000 SEED=1
	@RUNS=$(or $(RUNS),10000) SEED=$(or $(SEED),1) cargo test --quiet --profile bench --workspace --locked --test chain -- \
		--ignored --nocapture campaign::campaign_of

faults: ## faults with a known cause, and at whose door each is laid: SCENARIOS=5000 SEED=1
	@SCENARIOS=$(or $(SCENARIOS),5000) SEED=$(or $(SEED),1) cargo test --quiet --workspace --locked --lib -- \
		--nocapture verdict::faults

test-unit: ## unit and property tests
	@e2e/verify.sh unit

test-e2e: ## the stories on a real cluster; STORY=word chooses, KEEP=1 leaves the cluster running
	@e2e/verify.sh stories

world-up: setup images ## bring the tests' cluster up with Gridstake installed
	@e2e/cluster/world.sh up
	@e2e/cluster/world.sh images
	@e2e/install.sh

world-down: ## remove the tests' clusters
	@e2e/cluster/world.sh down
	@E2E_WORLD=$${E2E_WORLD:-test}-paid e2e/cluster/world.sh down

pictures: ## docs/pictures: the dashboards, from what a Prometheus saw while jobs were paid on a cluster of its own; ROUNDS= (about 10 min)
	@E2E_ROUNDS=$(or $(ROUNDS),10) STORY=story_46 KEEP=1 E2E_WORLD=pictures e2e/verify.sh stories
	@e2e/pictures.py "$$(E2E_WORLD=pictures e2e/cluster/world.sh folder)/prometheus"
	@E2E_WORLD=pictures e2e/cluster/world.sh down

demo: ## a GPU job on a real cluster and chain, from kubectl to the event that paid for it; leaves the cluster running
	@e2e/demo.sh

demo-down: ## remove the demo's cluster
	@e2e/demo.sh down

bench: ## measure what docs/benchmarks.md records, on release builds (about 15 min)
	@e2e/bench.sh

bench-agent: ## what the agent costs with 8 GPUs and 32 processes, and how exact its evidence is; DURATION= (seconds)
	@device-agent/bench.sh

bench-fleet: ## how soon jobs are placed on 1,000 nodes that kwok plays; FLEET= BURST= PENDING= PROFILE=dev|bench|release (about 10 min with compiling)
	@e2e/bench-fleet.sh

bench-settlement: ## how fast 500 jobs a second are settled, what that costs, how large the log is; DURATION= (seconds) RATE= (about 2 min with compiling)
	@cargo test --quiet --profile bench --workspace --locked --test chain -- --ignored --nocapture load::what_settling

bench-scheduler: ## how many decisions a second, how long each takes, how well they place; SECONDS= NODES="1000 5000 50000" (about 5 min with compiling)
	@cargo bench --quiet --workspace --locked --bench scheduler

bench-verify: ## how long it takes to verify a week of 100,000 slices offline; SLICES= CHECKPOINTS= EVERY=1 (about 10 min with compiling)
	@cargo bench --workspace --locked --bench verify_week

contracts-build: ## compile the contracts
	@contracts/setup.sh
	@cd contracts && ../.build/bin/forge build

contracts-test: ## the contracts' tests
	@contracts/test.sh

contracts-abi: ## write the contracts' ABI and bytecode again
	@contracts/abi.sh

contracts-layout: ## write the contracts' storage layout again
	@contracts/layout.sh

contracts-gas-snapshot: ## write what the contracts' calls cost again
	@contracts/gas-snapshot.sh

contracts-mutants: ## plant faults in the contracts; the tests must find each
	@contracts/mutants.sh

contracts-prove: ## prove that no job is paid twice and that nothing is lost (halmos)
	@contracts/prove.sh

contracts-slither: ## static analysis of the contracts; a finding that is not explained fails
	@contracts/slither.sh

# RPC and KEY reach the program by the environment, as make hands on all variables: a key or a token has no place on a command
# line. What else there is to say is said by ARGS; `gridstake-operator contracts-deploy --help` lists it.
contracts-deploy: ## deploy the contracts: RPC=url KEY=deployer's key [OUT= LANE= CHAIN_ID= KEYS=folder ARGS=]; writes Helm values
	@cargo build --quiet --workspace --locked
	@$(TARGET)/gridstake-operator --log-format=text contracts-deploy \
		$(if $(OUT),--out=$(OUT)) $(if $(LANE),--lane=$(LANE)) $(if $(CHAIN_ID),--chain-id=$(CHAIN_ID)) \
		$(if $(findstring --lane-signer,$(ARGS)),,--keys=$(or $(KEYS),gridstake-keys)) $(ARGS)

gas: ## what settling costs per job, from receipts of a local chain (about 30 s)
	@contracts/gas.sh
