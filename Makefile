# Tools are pinned in a separate module, so that go.mod does not list them.
tool := go tool -modfile=tools/go.mod

# The go command needs a home for its caches and a place to build in, which a
# container may not have. Without a TMPDIR it builds in /tmp.
export HOME := $(shell scripts/home.sh)
ifneq ($(shell [ -d "$$TMPDIR" ] && [ -w "$$TMPDIR" ] && echo usable),usable)
unexport TMPDIR
endif

.PHONY: help
help: ## Print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Show what the library does, on a database that is gone afterwards
	@scripts/deps.sh database
	go run ./examples/demo

# Tests that wait for a server do not use the processor, so more of them run at once
# than there are processors. make lint runs go vet.
# By default a process with the race detector sleeps a second before it exits.
export GORACE := atexit_sleep_ms=0
TESTFLAGS := -race -shuffle=on -count=1 -parallel=4 -timeout=15m -vet=off

.PHONY: test
test: deps ## Run all tests, on private servers unless DATABASE_URL or PG* name one
	go test $(TESTFLAGS) ./...

.PHONY: interop
interop: deps ## Apply the migrations with goose, golang-migrate and tern themselves
	cd interop && go test $(TESTFLAGS) ./...

# N runs in each setting. A run takes some minutes and needs a machine that does nothing else.
.PHONY: stress
stress: deps ## Run all tests N times on a quiet machine, a busy one, and with GOMAXPROCS=1
	@scripts/stress.sh $(or $(N),1) $(TESTFLAGS)

# SEED repeats the random choices of an earlier run. The race detector is off, unlike in
# make test, so that a run tries more in the same time. go test prints the table only for the
# package of the working directory.
.PHONY: torture
torture: deps ## Run the tests of faults with their full numbers, and print the count
	cd tests/robustness && go test -count=1 -timeout=180m -parallel=8 -run '^Test(F|Q1)' -torture -seed=$(or $(SEED),0)

# A line takes some minutes and needs a machine that does nothing else. RUNS chooses lines.
.PHONY: matrix
matrix: deps ## Run all tests on PostgreSQL 14 to 18, and with unusual settings
	go run ./tests/matrix $(RUNS)

# A run takes up to half an hour and needs a machine that does nothing else. With QUICK=1 it takes a
# minute, and only shows that everything works.
.PHONY: bench
bench: ## Measure what a start costs, and write docs/performance.md with its pictures
	@scripts/deps.sh postgres
	cd bench && go test -count=1 -timeout=3h $(if $(QUICK),,-full -docs=../docs)

.PHONY: lint
lint: ## Check format, vet, staticcheck, the workflow, and that the go.mod files are tidy
	@unformatted=$$($(tool) gofumpt -l .) || exit; \
	if [ -n "$$unformatted" ]; then \
		echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; \
	fi
	go vet ./...
	$(tool) staticcheck ./...
	$(tool) actionlint
	go mod tidy -diff
	cd tools && go mod tidy -diff
	cd bench && go vet ./... && go tool -modfile=../tools/go.mod staticcheck ./... && go mod tidy -diff
	cd interop && go vet ./... && go tool -modfile=../tools/go.mod staticcheck ./... && go mod tidy -diff

.PHONY: fmt
fmt: ## Format the code
	$(tool) gofumpt -w .

.PHONY: deps
deps: ## Install what the tests need, where that is missing and possible
	@scripts/deps.sh postgres pgbouncer cc

.PHONY: clean
clean: ## Remove what builds and tests leave behind
	find . -path ./.git -prune -o -type f \( -name '*.test' -o -name '*.out' \) -exec rm -f {} +
