# The front door of minke.  `make help` lists what is behind it; CMake does the building.
#
# Two commands matter: `make run` (builds, then the model in models/ thinks and answers) and `make test` (everything is checked).

BUILD := build
JOBS  ?= $(shell nproc 2>/dev/null || echo 2)

# Settings a person may give: make run PROMPT="Make 38 from 3 5 7", make fuzz FUZZ_SECONDS=1800, make install PREFIX=/usr
PROMPT       ?= What is (37+58)*6-129?
RUN_FLAGS    ?= --show-thinking
BENCH_FLAGS  ?=
FUZZ_SECONDS ?= 10
FUZZ         ?=
SOAK_MINUTES ?= 30
PREFIX       ?= /usr/local
export PROMPT FUZZ_SECONDS FUZZ JOBS

.PHONY: help run build tests test check bench asan lint fuzz neon tsan soak install clean
.DEFAULT_GOAL := help

help:
	@echo 'make run [PROMPT="..."]   install what is missing, build, and let the model in models/ think'
	@echo 'make build                the program alone: $(BUILD)/minke'
	@echo 'make test                 everything that CI checks; the last line is the sum'
	@echo 'make check                unit tests only'
	@echo 'make bench                speed of this machine with the model in models/'
	@echo 'make lint                 format, layers, sizes, forbidden functions, static analysis'
	@echo 'make asan                 unit tests with AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make tsan                 what threads share (pool, HTTP, scheduler, store) with ThreadSanitizer'
	@echo 'make fuzz [FUZZ=gguf]     every fuzz target for FUZZ_SECONDS=$(FUZZ_SECONDS) seconds'
	@echo 'make soak                 minke serve under 100 clients for SOAK_MINUTES=$(SOAK_MINUTES) minutes'
	@echo 'make neon                 kernels for ARM under emulation give the same hash'
	@echo 'make install              into PREFIX=$(PREFIX); honours DESTDIR'
	@echo 'make clean                remove $(BUILD)/'

run: build
	@$(BUILD)/minke run $(RUN_FLAGS) -- "$$PROMPT" </dev/null

# The first configuration leaves the tests out, so that running minke does not need what testing it needs.
build:
	@tools/deps build
	@TARGET=minke-cli tools/build $(BUILD) $(if $(wildcard $(BUILD)/CMakeCache.txt),,-DMK_TESTS=OFF)

tests:
	@tools/deps build test
	@tools/build $(BUILD) -DMK_TESTS=ON

test:
	@tools/deps build test lint cross fuzz
	@tools/test-all

check: tests
	@tools/ctest $(BUILD)

bench: build
	@$(BUILD)/minke bench $(BENCH_FLAGS)

lint:
	@tools/deps lint
	@tools/lint

asan:
	@tools/deps build test
	@tools/build $(BUILD)/asan -DMK_TESTS=ON -DMK_SANITIZE=ON -DMK_WERROR=OFF -DCMAKE_BUILD_TYPE=Check
	@tools/ctest $(BUILD)/asan

tsan:
	@tools/deps build test
	@tools/tsan

fuzz:
	@tools/deps build fuzz
	@tools/fuzz

soak: build
	@tools/deps test
	@tools/venv
	@$(BUILD)/venv/bin/python tests/soak.py --minutes $(SOAK_MINUTES)

neon:
	@tools/deps build cross
	@tools/neon

install: build
	@TARGET=minke_shared tools/build $(BUILD)
	@cmake --install $(BUILD) --prefix $(PREFIX)

clean:
	rm -rf $(BUILD)
