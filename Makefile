# make demo   the whole flow on one synthetic shop day, then the dashboard
# make test   what CI runs first; `make test-all` adds the slow proofs
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EVENTS ?=
SERVE  ?= 1
# A mirror set for pip is used for uv too; nothing is set where pip has none.
INDEX   = $(shell $(PYTHON) -m pip config get global.index-url 2>/dev/null)
UV      = $(if $(INDEX),UV_DEFAULT_INDEX=$(INDEX) )$(BIN)/uv --system-certs pip

# Start-up time counts here: Python may cache its bytecode.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help env demo test test-all test-aws infra-env test-infra synth deploy destroy lint format lambda lambda-cold-start bench evaluate bench-nab lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

env: $(VENV)/.dev ## the development environment in .venv

$(BIN)/uv: requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(VENV)/.run: requirements/run.txt pyproject.toml $(BIN)/uv
	@$(UV) install --quiet --python $(BIN)/python --require-hashes -r $<
	@$(UV) install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	@$(UV) install --quiet --python $(BIN)/python --require-hashes -r $<
	@touch $@

READER := .venv-reader
$(READER)/.done: requirements/iceberg-reader.txt $(BIN)/uv  # another program that reads the lake's tables; used by tests
	@test -x $(READER)/bin/python || $(PYTHON) -m venv --without-pip $(READER)
	@$(UV) install --quiet --python $(READER)/bin/python --require-hashes -r $<
	@touch $@

demo: $(VENV)/.run ## replay a shop day (or EVENTS=file.csv), report on it, serve the page (SERVE=0: do not)
	@$(BIN)/shopstream demo $(if $(EVENTS),--events "$(EVENTS)") $(if $(filter 0,$(SERVE)),--no-serve)

test: lint $(READER)/.done ## lint, types, import contract, tests (under 15 minutes on two cores)
	@$(BIN)/pytest -n 2 -m "not slow and not aws"

test-all: $(VENV)/.dev $(READER)/.done .standins/.done benchmarks/.work/venv-spark/.made ## the slow proofs, those of the AWS profile too (needs Node and Java)
	@$(BIN)/pytest -n 2 --dist loadgroup -m slow

STANDINS := .standins
NEEDED    = @command -v $(1) >/dev/null || { echo "$(1) is needed for stand-ins of AWS services; install $(2)"; exit 1; }

$(STANDINS)/.done: tests/standins/package-lock.json tests/standins/pom.xml  # servers that speak the AWS APIs; used by tests
	$(call NEEDED,node,Node.js 20 or newer)
	$(call NEEDED,npm,npm 10 or newer)
	$(call NEEDED,java,a JDK 17 or newer)
	$(call NEEDED,mvn,Maven 3.8 or newer)
	@rm -rf $(STANDINS) && mkdir -p $(STANDINS)
	@cp tests/standins/package.json tests/standins/package-lock.json tests/standins/pom.xml $(STANDINS)
	@cd $(STANDINS) && npm ci --silent --no-audit --no-fund --ignore-scripts --omit=optional
	@cd $(STANDINS) && mvn -q -B dependency:copy-dependencies -DoutputDirectory=java -DincludeScope=runtime
	@touch $@

test-aws: $(VENV)/.dev $(STANDINS)/.done $(READER)/.done benchmarks/.work/venv-spark/.made ## the AWS profile against stand-ins of its services (needs Node and Java)
	@$(BIN)/pytest -n 2 --dist loadgroup -m "aws and not slow"

# The CDK app has an environment of its own, too: `lambda` is the package of its functions.
INFRA     := .venv-infra
INFRA_BIN := $(INFRA)/bin
CDK        = cd infra && CDK_DISABLE_CLI_TELEMETRY=true JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION=20 node_modules/.bin/cdk
STAGE     ?= dev

$(INFRA)/.done: requirements/infra.txt $(BIN)/uv
	@test -x $(INFRA_BIN)/python || $(PYTHON) -m venv --without-pip $(INFRA)
	@$(UV) install --quiet --python $(INFRA_BIN)/python --require-hashes -r $<
	@touch $@

infra/node_modules/.bin/cdk: infra/package-lock.json
	@cd infra && npm ci --no-audit --no-fund --ignore-scripts --loglevel error  # --prefix would look for its settings elsewhere
	@touch $@

infra-env: $(INFRA)/.done infra/node_modules/.bin/cdk ## the CDK app's environment

test-infra: $(INFRA)/.done ## tests of the CDK app, without an account
	@$(INFRA_BIN)/pytest -c tests/infra/pytest.ini --rootdir . tests/infra

synth: infra-env lambda ## both stages as CloudFormation in .cdk.out, without an account
	@$(CDK) synth --quiet --no-lookups '**'

deploy: infra-env lambda ## deploy STAGE=dev (or prod) to the account of your AWS credentials; asks before rights widen
	@$(CDK) deploy --require-approval broadening '$(STAGE)/*'

destroy: infra-env lambda ## tear STAGE=dev (or prod) down; docs/aws.md says what stays
	@$(CDK) destroy '$(STAGE)/*'

lint: $(VENV)/.dev
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.dev ## apply the formatter and the safe fixes
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

# Flink and Spark live in environments of their own: they pin old numpy and pandas.
COMMA := ,
PEERS = $(if $(ONLY),$(filter flink spark,$(subst $(COMMA), ,$(ONLY))),flink spark)

benchmarks/.work/venv-%/.made: requirements/bench-%.txt $(BIN)/uv
	@rm -rf $(@D) && mkdir -p $(dir $(@D))
	@$(BIN)/uv venv --quiet --python $(BIN)/python $(@D)
	@$(UV) install --quiet --python $(@D)/bin/python --require-hashes -r $<
	@touch $@

lambda: $(VENV)/.dev requirements/lambda.txt ## the detection functions' package in dist/lambda (RULES=folder ALLOW_LISTS=folder: with your own)
	@$(BIN)/python infra/package_lambda.py $(if $(RULES),--rules "$(RULES)") $(if $(ALLOW_LISTS),--allow-lists "$(ALLOW_LISTS)")

lambda-cold-start: $(VENV)/.dev $(STANDINS)/.done ## how long the detection function takes to start, from its package
	@$(BIN)/python benchmarks/cold_start.py

bench: $(VENV)/.dev $(PEERS:%=benchmarks/.work/venv-%/.made) ## compare with Flink, Spark and plain DuckDB; writes benchmarks/RESULTS.md (see benchmarks/run.py)
	@$(BIN)/python benchmarks/run.py

bench-nab: $(VENV)/.dev benchmarks/.work/venv-nab/.made ## score the univariate detectors on NAB=path/to/NAB; writes benchmarks/RESULTS-nab.md
	@test -n "$(NAB)" || { echo "Say where: git clone https://github.com/numenta/NAB, then make bench-nab NAB=NAB"; exit 1; }
	@$(BIN)/python benchmarks/nab.py "$(NAB)"

evaluate: $(VENV)/.run ## measure detections and false alarms on 20 synthetic shops; writes benchmarks/EVALUATION.md
	@$(BIN)/shopstream --home benchmarks/.work evaluate --cache benchmarks/.work/evaluation-cache --markdown benchmarks/EVALUATION.md

lock: $(BIN)/uv ## renew the lock files
	@$(UV) compile -q --universal --python-version 3.11 --generate-hashes --no-header --upgrade requirements/bootstrap.in -o requirements/bootstrap.txt
	@$(UV) compile -q --universal --python-version 3.11 --generate-hashes --no-header --upgrade pyproject.toml --group build -o requirements/run.txt
	@$(UV) compile -q --universal --python-version 3.11 --generate-hashes --no-header --upgrade pyproject.toml --extra aws --group dev -o requirements/dev.txt
	@$(UV) compile -q --universal --python-version 3.11 --generate-hashes --no-header --upgrade pyproject.toml --extra aws --group build -o requirements/aws.txt
	@$(UV) compile -q --universal --python-version 3.11 --generate-hashes --no-header --upgrade requirements/iceberg-reader.in -o requirements/iceberg-reader.txt
	@$(UV) compile -q --universal --python-version 3.11 --generate-hashes --no-header --upgrade requirements/lambda.in -o requirements/lambda.txt
	@$(UV) compile -q --universal --python-version 3.11 --generate-hashes --no-header --upgrade requirements/infra.in -o requirements/infra.txt

clean: ## remove environments and the data home
	@rm -rf $(VENV) $(READER) $(INFRA) infra/node_modules .cdk.out $(STANDINS) .shopstream benchmarks/.work
