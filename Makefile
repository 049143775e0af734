# pvtune: the front door. `make help` lists what there is.
#
# VARIANT=release (default) builds build/pvtune; VARIANT=sanitize builds everything again under build/sanitize with
# address and undefined-behaviour sanitizers.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
JOBS ?= $(shell nproc)

VARIANT ?= release
OUT := build/$(VARIANT)
PYTHON := build/venv/bin/python
SETUP := build/setup.done

CXX := g++
# False alarms of g++ 12: -Wmaybe-uninitialized in its own intrinsics headers (GCC bug 105593), -Wrestrict in
# std::string (bug 105651).
WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wno-maybe-uninitialized \
    -Wno-uninitialized -Wno-restrict -Werror
# No fast-math: only what keeps IEEE values but lets loops vectorise.
FLOATING_POINT := -ffp-contract=fast -fno-math-errno -fno-trapping-math
WIDE_VECTORS := $(if $(filter x86_64,$(shell uname -m)),-mprefer-vector-width=512)
CXXFLAGS.release := -O3 -g1 -march=native $(WIDE_VECTORS) $(FLOATING_POINT) -DNDEBUG
CXXFLAGS.sanitize := -O1 -g -march=native $(FLOATING_POINT) -fsanitize=address,undefined -fno-sanitize-recover=all \
    -fno-omit-frame-pointer
LDFLAGS.sanitize := -fsanitize=address,undefined
CXXFLAGS := -std=c++20 -fopenmp $(WARNINGS) $(CXXFLAGS.$(VARIANT)) -I. $(shell pkg-config --cflags hdf5 2>/dev/null)
LDFLAGS := -fopenmp $(LDFLAGS.$(VARIANT))
LDLIBS := -ldnnl $(shell pkg-config --libs hdf5 2>/dev/null) -lxxhash

LIBRARY_SOURCES := $(filter-out host/main.cpp,$(shell find host io -name '*.cpp' | sort))
TEST_SOURCES := $(sort $(wildcard tests/*_test.cpp))
LIBRARY_OBJECTS := $(LIBRARY_SOURCES:%.cpp=$(OUT)/%.o)
TESTS := $(TEST_SOURCES:tests/%.cpp=$(OUT)/tests/%)
BINARY := $(if $(filter release,$(VARIANT)),build/pvtune,$(OUT)/pvtune)

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' Makefile | column -t -s '|'

.PHONY: setup
setup: $(SETUP) ## install what is missing: packages, the project's own Python environment

$(SETUP): scripts/setup.sh third_party/packages.txt third_party/requirements.txt
	@scripts/setup.sh
	@touch $@

.PHONY: build
build: $(SETUP) ## build build/pvtune
	@$(MAKE) -j$(JOBS) $(BINARY)

.PHONY: demo
demo: ## compress SmolLM2-135M to 2 bits and PV-tune it; TEXT=file to use your own text
	@scripts/demo.sh $(if $(TEXT),--text $(TEXT))

.PHONY: test
test: $(SETUP) ## every test, plain and under sanitizers; ends with `N passed, N failed`
	@$(MAKE) -j$(JOBS) $(BINARY) tests
	@$(MAKE) -j$(JOBS) VARIANT=sanitize tests
	@scripts/test.sh

.PHONY: tests
tests: $(TESTS)

.PHONY: bench
bench: build ## time the operations of this machine's backends against their limits
	@build/pvtune bench

.PHONY: bench-cpu
bench-cpu: build ## time a tuning step and an evaluation against PyTorch, in one run
	@scripts/bench_cpu.sh

.PHONY: nightly
nightly: $(SETUP) ## the tests, then fuzzing of every reader
	@$(MAKE) test
	@scripts/fuzz.sh

.PHONY: format
format: ## format the C++ sources in place
	@clang-format -i $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

.PHONY: lint
lint: ## check the format of the C++ sources
	@clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

.PHONY: clean
clean: ## remove what was built (the Python environment stays)
	rm -rf build/release build/sanitize build/fuzz build/pvtune

$(OUT)/libpvtune.a: $(LIBRARY_OBJECTS)
	@rm -f $@
	@ar rcs $@ $^

$(BINARY): $(OUT)/host/main.o $(OUT)/libpvtune.a
	@echo "link $@"
	@$(CXX) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(TESTS): $(OUT)/tests/%: $(OUT)/tests/%.o $(OUT)/libpvtune.a
	@echo "link $@"
	@$(CXX) $(LDFLAGS) -o $@ $^ -lgtest -lgtest_main -lpthread $(LDLIBS)

$(OUT)/tests/%.o: CXXFLAGS += -DPVTUNE_SOURCE_DIR='"$(CURDIR)"'

$(OUT)/%.o: %.cpp
	@mkdir -p $(@D)
	@echo "c++ $(VARIANT) $<"
	@$(CXX) $(CXXFLAGS) -MMD -MP -c -o $@ $<

.SECONDARY:
-include $(shell find $(OUT) -name '*.d' 2>/dev/null)
