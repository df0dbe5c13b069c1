PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

$(STAMP): deploy/requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Parallax Streams needs Python >= 3.11, this is " + sys.version.split()[0] + "; set PYTHON=/path/to/python3.11")'
	@echo "Setting up $(VENV) (once; about a minute)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.PHONY: setup
setup: $(STAMP) ## Install everything into .venv

.PHONY: demo
demo: setup ## Run the main job once on real input, explain what happened (a minute)
	@$(BIN)/python -m streams.demo

.PHONY: dev
dev: setup ## Broker, worker, demo agents and sample traffic, until Ctrl-C
	@$(BIN)/parallax dev

.PHONY: fmt
fmt: setup ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

.PHONY: lint
lint: setup ## Lint and check the format
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.PHONY: types
types: setup ## Check the types, strictly
	$(BIN)/mypy

.PHONY: arch
arch: setup ## Check the import contracts (import-linter)
	$(BIN)/lint-imports

.PHONY: lock
lock: setup ## Resolve and hash-pin the dependencies again
	$(BIN)/uv pip compile pyproject.toml --group dev --extra embedded --extra otel --extra registry --extra aws --universal --generate-hashes --python-version 3.11 --no-header --quiet -o deploy/requirements-dev.lock
	$(BIN)/uv pip compile pyproject.toml --extra otel --extra registry --universal --generate-hashes --python-version 3.11 --no-header --quiet -c deploy/requirements-dev.lock -o deploy/requirements.lock
	$(BIN)/uv pip compile --group deploy --universal --generate-hashes --python-version 3.11 --no-header --quiet -c deploy/requirements-dev.lock -o deploy/requirements-deploy.lock
	$(BIN)/uv pip compile --group audit --universal --generate-hashes --python-version 3.11 --no-header --quiet -o deploy/requirements-audit.lock
	$(BIN)/uv pip compile --group coverage --universal --generate-hashes --python-version 3.11 --no-header --quiet -c deploy/requirements-dev.lock -o deploy/requirements-coverage.lock
	$(BIN)/uv pip compile --group docs --universal --generate-hashes --python-version 3.11 --no-header --quiet -c deploy/requirements-dev.lock -o deploy/requirements-docs.lock

WITHOUT_JAVA := not kafka and not chaos and not browser and not promtool and not deploy and not interop and not netns and not wheel

# pytest's exit 5 (nothing was collected) fails a target as every other failure does.
.PHONY: test
test: setup ## Test all that needs no Java: rules, contracts, pipelines on the embedded broker
	$(BIN)/pytest -q -n 4 --dist worksteal -m "$(WITHOUT_JAVA)"

.PHONY: test-kafka
test-kafka: setup ## Test on real Apache Kafka (needs Java 17 and Maven; KAFKA_TESTS=FILE...: only these)
	$(BIN)/python -m tests.support.kafka fetch
	$(BIN)/pytest -q -n 3 --dist loadfile --durations 15 -m "kafka and not chaos and not deploy" $(KAFKA_TESTS)

KAFKA_VERSIONS ?= 3.6.2 3.9.1 4.1.1 4.4.0
.PHONY: test-kafka-versions
test-kafka-versions: setup ## The same on each of KAFKA_VERSIONS, oldest first
	@for version in $(KAFKA_VERSIONS); do \
		echo "Apache Kafka $$version"; \
		PARALLAX_KAFKA_VERSION=$$version $(MAKE) --no-print-directory test-kafka || exit 1; \
	done

.PHONY: test-interop
test-interop: setup ## Test against real servers of every protocol, versions pinned (needs PyPI, and npm for the TypeScript ones)
	$(BIN)/pytest -q -n 0 -m "interop and not huge" tests/interop

.PHONY: test-interop-huge
test-interop-huge: setup ## The same for CrewAI, whose environment takes a gigabyte
	$(BIN)/pytest -q -n 0 -m "interop and huge" tests/interop

.PHONY: test-interop-newest
test-interop-newest: setup ## The same against the newest versions on the day; prints those that differ from the pinned ones
	INTEROP_NEWEST=1 $(BIN)/pytest -q -n 0 -m "interop and not huge" tests/interop

.PHONY: test-wheel
test-wheel: setup ## Build the wheel, install it in a new environment and use it from an empty directory (needs PyPI)
	$(BIN)/pytest -q -n 0 -m wheel tests/wheel

.PHONY: test-browser
test-browser: setup ## Test the live page in a browser (needs Debian's chromium)
	$(BIN)/pytest -q -m browser

.PHONY: test-netns
test-netns: setup ## Test from another machine's point of view, in network namespaces (needs root and iproute2)
	$(BIN)/pytest -q -m netns

.PHONY: test-rules
test-rules: setup ## Test the alerts and the names of metrics (needs promtool, of Debian's package prometheus)
	$(BIN)/pytest -q -m promtool

$(VENV)/.deploy-installed: deploy/requirements-deploy.lock $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements-deploy.lock
	@touch $@

.PHONY: test-deploy
test-deploy: $(VENV)/.deploy-installed ## Test what deploy/ holds; the image and compose need root, mmdebstrap, Java and Maven
	@$(BIN)/python -m tests.support.kafka fetch
	$(BIN)/pytest -q -m deploy

$(VENV)/.docs-installed: deploy/requirements-docs.lock $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements-docs.lock
	@touch $@

$(VENV)/.coverage-installed: deploy/requirements-coverage.lock $(STAMP)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements-coverage.lock
	@touch $@

.PHONY: coverage
coverage: $(VENV)/.coverage-installed ## Run `make test` and show which lines and branches no test runs; htmlcov/ has them by file
	$(BIN)/pytest -q -n 4 --dist worksteal --cov --cov-report term --cov-report html -m "$(WITHOUT_JAVA)"

$(VENV)/.audit-installed: deploy/requirements-audit.lock $(STAMP)
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements-audit.lock
	@touch $@

# A package that PyPI knows no advisories of would pass unseen: --strict makes that a failure.
.PHONY: audit
ifdef ADVISORIES
audit: setup ## Known vulnerabilities of what is installed at run time (ADVISORIES=FILE: by advisories in OSV's format, without a network)
	$(BIN)/python -m deploy.tools.audit $(ADVISORIES)
else
audit: $(VENV)/.audit-installed
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes -r deploy/requirements.lock
endif

.PHONY: sbom
sbom: setup ## Write dist/sbom.cdx.json: what is installed at run time, as CycloneDX, from the lock
	@mkdir -p dist
	$(BIN)/python -m deploy.tools.sbom > dist/sbom.cdx.json

.PHONY: docs
docs: $(VENV)/.docs-installed ## Build the documentation site into site/; a warning is a failure
	@$(BIN)/python -m docs.tools.generate --check
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f .mkdocs.yml
	@$(BIN)/python -m docs.tools.check_site site

.PHONY: reference
reference: setup ## Generate docs/reference from the code again
	$(BIN)/python -m docs.tools.generate

.PHONY: check
check: lint types arch test ## What the hook runs: lint, types, architecture, tests

SEEDS ?= 200
.PHONY: simulate
simulate: setup ## Simulated worlds with faults of every kind, seeds 1 to SEEDS (200): no broker, no waiting, each repeatable
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --jobs 2
	$(BIN)/python -m tests.simulation.statistics --seeds $(SEEDS)

.PHONY: simulate-holes
simulate-holes: setup ## The seeds that found holes, also with the fixes taken out, and a few seeds of every profile
	$(BIN)/python -m tests.simulation --holes --jobs 2
	$(BIN)/python -m tests.simulation --without all
	$(BIN)/python -m tests.simulation --profile all --seeds 3 --jobs 2

.PHONY: chaos-smoke
chaos-smoke: setup ## A short seeded kill run on real Kafka (part of the gate)
	$(BIN)/python -m tests.chaos.kill --tasks 15000 --kills 3 --seed 1

.PHONY: chaos-kill
chaos-kill: setup ## The whole kill run: 100,000 tasks, 12 SIGKILLs, a zombie, a rolling restart; five seeds
	$(BIN)/python -m tests.chaos.kill --tasks 100000 --kills 12 --zombie --rolling --seed 1 --seed 2 --seed 3 --seed 4 --seed 5

.PHONY: chaos-grow
chaos-grow: setup ## Partitions grown from 8 to 32 under load while workers are killed, on real Kafka; three seeds
	$(BIN)/python -m tests.chaos.kill --tasks 40000 --kills 6 --grow 32 --seed 1 --seed 2 --seed 3

.PHONY: chaos-limits
chaos-limits: setup ## Rate limits, breakers, attempts and deadlines over 3 workers while they are killed (5 minutes)
	$(BIN)/python -m tests.chaos.limits

.PHONY: chaos-brokers
chaos-brokers: setup ## Brokers killed, frozen, moved about and all switched off under load, on real Kafka
	$(BIN)/python -m tests.chaos.brokers

.PHONY: chaos-agent
chaos-agent: setup ## An agent down for ten minutes under 20 tasks/s: nothing that can wait fails, and memory stays flat
	$(BIN)/python -m tests.chaos.agent_outage

.PHONY: chaos-plans
chaos-plans: setup ## 2,000 plans of 5 tasks while two workers are killed, on real Kafka
	$(BIN)/python -m tests.chaos.plans --plans 2000 --kills 6 --seed 1

.PHONY: chaos-stats
chaos-stats: setup ## 200,000 data points of 200 agents, of now and of hours ago, while statistics are killed six times and frozen, on real Kafka
	STATS_POINTS=200000 STATS_AGENTS=200 STATS_KILLS=6 $(BIN)/pytest -q tests/system/test_stats_kafka.py

.PHONY: bench-stats
bench-stats: setup ## What statistics cost: CPU a point, start on a long changelog, memory, queries, on real Kafka
	$(BIN)/python -m tests.bench.statistics
	$(BIN)/python -m tests.bench.statistics_many

.PHONY: bench-plans
bench-plans: setup ## What the plan coordinator costs: CPU a step, ten steps in sequence, on real Kafka
	$(BIN)/python -m tests.bench.plans

.PHONY: bench-backlog
bench-backlog: setup ## Memory of a worker with a million tasks waiting
	$(BIN)/python -m tests.bench.backlog

.PHONY: bench
bench: bench-throughput bench-latency bench-growth ## All that is compared with others or with itself: the three below, on real Kafka (30 minutes)

.PHONY: bench-throughput
bench-throughput: setup ## Throughput and CPU a task beside a bare aiokafka loop, Parallel Consumer and FastStream, on real Kafka (6 minutes)
	$(BIN)/python -m tests.bench.throughput
	$(BIN)/python -m tests.bench.http_call
	$(BIN)/python -m tests.bench.cancelling

.PHONY: bench-latency
bench-latency: setup ## Latency and CPU a task from 5 to 1,000 tasks/s beside the floor and Parallel Consumer, and where a task spends its time (15 minutes)
	$(BIN)/python -m tests.bench.latency --stages --peers floor,parallel-consumer

.PHONY: bench-growth
bench-growth: setup ## Throughput and CPU a task as partitions, agents, payloads, backlog and processes grow, on real Kafka (8 minutes)
	$(BIN)/python -m tests.bench.growth

.PHONY: bench-check
bench-check: setup ## Compare ratios within a run with the committed ones (tests/bench/ratios.toml); fails on a regression (4 minutes)
	$(BIN)/python -m tests.bench.check

.PHONY: bench-tracing
bench-tracing: setup ## What spans cost a task, and what their hooks cost where tracing is off
	$(BIN)/python -m tests.bench.tracing

.PHONY: bench-fairness
bench-fairness: setup ## What a dead, a slow and a failing agent cost seventeen well ones, on real Kafka (6 minutes)
	$(BIN)/python -m tests.bench.fairness

.PHONY: bench-backlog-fairness
bench-backlog-fairness: setup ## The same three sick agents when 12,000 tasks are there at once, on real Kafka (5 minutes)
	$(BIN)/python -m tests.bench.backlog_fairness

.PHONY: schemas
schemas: setup ## Generate schemas/json, schemas/asyncapi.yaml and deploy/strimzi from models and topics again
	$(BIN)/parallax docs schemas --write schemas/json
	$(BIN)/parallax docs asyncapi --bootstrap-servers localhost:9092 --topic-prefix parallax. --write schemas/asyncapi.yaml
	$(BIN)/parallax docs strimzi --topic-prefix parallax. --write deploy/strimzi

# The name under which a file is registered at run time is that of the generated module.
.PHONY: protos
protos: setup ## Generate schemas/pb from schemas/proto again
	$(BIN)/python -m grpc_tools.protoc -Ischemas/pb=schemas/proto --python_out=. --pyi_out=. schemas/proto/*.proto
