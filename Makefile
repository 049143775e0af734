# pvtune: the front door. `make help` lists what there is.
#
# VARIANT=release (default) builds build/pvtune; VARIANT=sanitize builds everything again under build/sanitize with
# address and undefined-behaviour sanitizers. Kernels (cuda/*.cu) are built for the emulated device of tests/emulation in
# both, under emulated/, and a third time for the race detector under build/race. VARIANT=device builds the program and
# the kernels' tests for real devices, and for CPUs other than this one.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
# One a core, with a GiB each.
JOBS ?= $(shell awk -v jobs=$$(nproc) '/^MemAvailable/ && $$2 / 2^20 < jobs { jobs = int($$2 / 2^20) } \
    END { print jobs < 1 ? 1 : jobs }' /proc/meminfo)

VARIANT ?= release
OUT := build/$(VARIANT)
PYTHON := build/venv/bin/python
# For the shells of recipes, as given: with spaces, quotes and dollar signs.
override export TEXT := $(value TEXT)
override export ONLY := $(value ONLY)
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
CXXFLAGS.sanitize := -O1 -g1 -march=native $(FLOATING_POINT) -fsanitize=address,undefined -fno-sanitize-recover=all \
    -fno-omit-frame-pointer
LDFLAGS.sanitize := -fsanitize=address,undefined
PORTABLE_CPU ?= $(if $(filter x86_64,$(shell uname -m)),x86-64-v3,native)
CXXFLAGS.device := -O3 -g1 -march=$(PORTABLE_CPU) $(FLOATING_POINT) -DNDEBUG
# Where gpu-bundle puts libraries, seen from a program; the old kind of entry, which holds for libraries' libraries too.
LDFLAGS.device := -Wl,-rpath,'$$ORIGIN/../lib',--disable-new-dtags,--as-needed
CXXFLAGS := -std=c++20 -fopenmp $(WARNINGS) $(CXXFLAGS.$(VARIANT)) -I. $(shell pkg-config --cflags hdf5 2>/dev/null)
LDFLAGS := -fopenmp $(LDFLAGS.$(VARIANT))
LDLIBS := -ldnnl $(shell pkg-config --libs hdf5 2>/dev/null) -lxxhash

# CUDA=1: with the CUDA backend. The default asks for both a compiler and a device; a build without one computes on the
# CPU, and the tests run the CUDA backend on the emulated device.
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(shell command -v nvcc 2>/dev/null))
CUDA ?= $(if $(CUDA_HOME),$(if $(wildcard /dev/nvidia0)$(filter device,$(VARIANT)),1))
CUDA_BACKEND_SOURCES := $(sort $(wildcard host/backend/cuda/*.cpp host/bench/cuda/*.cpp))
# The command line is tested as a program: it is built once, for the program alone.
PROGRAM_SOURCES := host/main.cpp host/built_for.cpp $(sort $(wildcard host/commands/*.cpp))
LIBRARY_SOURCES := $(filter-out $(PROGRAM_SOURCES) $(CUDA_BACKEND_SOURCES),$(shell find host io -name '*.cpp' | sort))
ifeq ($(CUDA),1)
LIBRARY_SOURCES := $(filter-out host/backend/no_cuda.cpp,$(LIBRARY_SOURCES)) $(CUDA_BACKEND_SOURCES) \
    $(sort $(wildcard cuda/*.cpp))
DEVICE_OBJECTS := $(patsubst %.cu,$(OUT)/%.o,$(sort $(wildcard cuda/*.cu)))
CXXFLAGS += -isystem $(CUDA_HOME)/include
LDLIBS += -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcublasLt -lcudart_static -ldl -lrt -lpthread
endif
NVCC := $(CUDA_HOME)/bin/nvcc
# Machine code of every architecture, and of the last one its PTX for what comes after it.
DEVICE_CODE := -arch=native
ifeq ($(VARIANT),device)
ARCHITECTURES ?= 80 90
DEVICE_CODE := $(foreach number,$(ARCHITECTURES),-gencode=arch=compute_$(number),code=sm_$(number)) \
    $(foreach number,$(lastword $(ARCHITECTURES)),-gencode=arch=compute_$(number),code=compute_$(number))
DEVICE_OBJECTS += $(patsubst %.cu,$(OUT)/%.o,$(sort $(wildcard tests/cuda/*.cu)))
DEVICE_TESTS := $(patsubst %.cpp,$(OUT)/%,$(sort $(wildcard tests/cuda/*_test.cpp)))
endif
NVCCFLAGS := -std=c++20 -O3 -lineinfo --expt-relaxed-constexpr -Werror all-warnings -Xcompiler -Wall,-Wextra,-Werror -I.
TEST_SOURCES := $(sort $(wildcard tests/*_test.cpp))
LIBRARY_OBJECTS := $(LIBRARY_SOURCES:%.cpp=$(OUT)/%.o) $(DEVICE_OBJECTS)
TESTS := $(TEST_SOURCES:tests/%.cpp=$(OUT)/tests/%)
PARITY_PROGRAMS := $(patsubst %.cpp,$(OUT)/%,$(sort $(wildcard tests/parity/*.cpp)))
BINARY := $(if $(filter release,$(VARIANT)),build/pvtune,$(OUT)/pvtune)

# Kernels on the CPU: g++ compiles a .cu file against tests/emulation/cuda_on_cpu.h. No contraction to fma but where the
# kernel says so; reinterpret_cast to vectors is CUDA's habit; a frame must fit on a small stack.
EMULATED := $(OUT)/emulated
KERNEL_SOURCES := $(sort $(wildcard cuda/*.cu tests/cuda/*.cu tests/emulation/*.cu))
EMULATION_SOURCES := $(filter-out %_test.cpp tests/emulation/race_%,$(sort $(wildcard tests/emulation/*.cpp)))
RACE_SOURCES := $(filter-out %_test.cpp,$(sort $(wildcard tests/emulation/race_*.cpp)))
KERNEL_TEST_SOURCES := $(sort $(wildcard tests/cuda/*_test.cpp))
EMULATED_TESTS := $(KERNEL_TEST_SOURCES:%.cpp=$(EMULATED)/%) $(EMULATED)/tests/emulation/emulator_test
RACE_TESTS := $(patsubst %.cpp,build/race/%,$(filter-out %/tune_test.cpp,$(KERNEL_TEST_SOURCES))) \
    build/race/tests/emulation/race_test
# KERNELS="cuda/a.cu cuda/b.cu" on the command line: link these and the CPU's operations alone, whatever state the rest
# of the tree is in.
ORACLES := $(if $(KERNELS),$(OUT)/liboracles.a,$(OUT)/libpvtune.a)
EMULATED_KERNELS := $(if $(KERNELS),$(KERNELS:%.cu=$(EMULATED)/%.o),$(EMULATED)/libkernels.a)
RACE_KERNELS := $(if $(KERNELS),$(KERNELS:%.cu=build/race/%.o),build/race/libkernels.a)
KERNELFLAGS.release := -O2 -g1 -march=native -fno-math-errno -fno-trapping-math -Wframe-larger-than=32768 \
    -fstack-clash-protection
KERNELFLAGS.sanitize := $(CXXFLAGS.sanitize)
KERNELFLAGS.race := -O1 -g1 -march=native -fsanitize=thread --param tsan-instrument-func-entry-exit=0
KERNELFLAGS := -x c++ -std=c++20 $(WARNINGS) -Wno-unknown-pragmas -ffp-contract=off -fno-strict-aliasing \
    -Itests/emulation -I.

# For devices: every kernel must compile for these without warnings. ARCHITECTURES="80 89 90 100" for more.
ARCHITECTURES ?= 90
DEVICE_SOURCES := $(sort $(wildcard cuda/*.cu tests/cuda/*.cu))

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s  %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: ## install what is missing: packages, the project's own Python environment
	@scripts/setup.sh

$(SETUP): scripts/setup.sh third_party/packages.txt third_party/requirements.txt
	@scripts/setup.sh

.PHONY: build
build: $(SETUP) ## build build/pvtune
	@$(MAKE) -j$(JOBS) $(BINARY)

.PHONY: demo
demo: ## compress SmolLM2-135M to 2 bits and PV-tune it; TEXT=file to use your own text
	@scripts/demo.sh $${TEXT:+--text "$$TEXT"}

.PHONY: test
test: $(SETUP) ## every test, plain, under sanitizers, kernels for races; ends with `N passed, N failed`
	@$(MAKE) -j$(JOBS) $(BINARY) tests
	@$(MAKE) -j$(JOBS) VARIANT=sanitize tests
	@$(MAKE) -j$(JOBS) race
	@if command -v nvcc >/dev/null; then $(MAKE) -j$(JOBS) --keep-going device-objects || true; fi
	@scripts/test.sh

.PHONY: tests
tests: $(TESTS) $(EMULATED_TESTS) $(if $(filter release,$(VARIANT)),$(EMULATED)/pvtune)

.PHONY: race
race: $(RACE_TESTS) ## build the tests of kernels with the race detector, under build/race

.PHONY: compile-check
compile-check: ## compile every kernel with nvcc, where there is one, for ARCHITECTURES; writes docs/ptxas.md
	@if command -v nvcc >/dev/null; then $(MAKE) -j$(JOBS) device-objects ptxas-table; \
	else echo "compile-check: no nvcc on PATH: skipped"; fi

# The page is about one architecture; the others are only searched for spills.
.PHONY: ptxas-table
ptxas-table: device-objects
	@status=0; \
	for architecture in $(ARCHITECTURES); do \
	    folder=build/nvcc/sm_$$architecture; \
	    [[ $$architecture == 90 ]] && out=docs/ptxas.md || out=$$folder/ptxas.md; \
	    scripts/ptxas_table.py --folder $$folder --out $$out \
	        --compiler "$$(nvcc --version | sed -n 's/.*\(release [0-9.]*\).*/nvcc, \1/p')" \
	        $(patsubst %.cu,$$folder/%.ptxas,$(filter cuda/%,$(DEVICE_SOURCES))) || status=1; \
	done; \
	exit $$status

.PHONY: device-objects
device-objects: $(foreach architecture,$(ARCHITECTURES),$(DEVICE_SOURCES:%.cu=build/nvcc/sm_$(architecture)/%.o))

.PHONY: bench
bench: build ## time the operations of this machine's backends against their limits
	@build/pvtune bench

.PHONY: bench-cpu
bench-cpu: build ## time a tuning step and an evaluation against PyTorch, in one run
	@scripts/bench_cpu.sh

.PHONY: comparison
comparison: build ## representations x strategies on SmolLM2: table and plot in out/comparison; ONLY='aqlm 2' for a part
	@scripts/comparison.sh $${ONLY:+--only "$$ONLY"}

.PHONY: parity
parity: build ## compare with PyTorch and transformers, in an environment of their own
	@$(MAKE) -j$(JOBS) $(PARITY_PROGRAMS)
	@scripts/parity.sh

.PHONY: gpu-bundle
gpu-bundle: $(SETUP) ## a folder that checks pvtune on another machine with a GPU, packed too if not CARRY_CUBLAS=1 or CARRY_DEMO=1
	@if [[ ! -x "$(NVCC)" ]]; then echo "gpu-bundle: no nvcc on PATH and none under CUDA_HOME: install the CUDA toolkit" >&2; exit 2; fi
	@$(MAKE) VARIANT=device CUDA=1 -j$(JOBS) gpu-bundle-folder

.PHONY: gpu-bundle-folder
gpu-bundle-folder: $(BINARY) $(DEVICE_TESTS)
	@CUDA_HOME=$(CUDA_HOME) ARCHITECTURES="$(ARCHITECTURES)" CARRY_CUBLAS=$(CARRY_CUBLAS) CARRY_DEMO=$(CARRY_DEMO) \
	    scripts/gpu_bundle.sh $(OUT) build/gpu-bundle

.PHONY: gpu-check
gpu-check: ## check pvtune on this machine's GPU, with the demo's files if they are there; writes out/gpu-<device>.json
	@if ! nvidia-smi -L >/dev/null 2>&1; then \
	    echo "gpu-check: no GPU here: run \`make gpu-bundle\` and copy build/gpu-bundle to a machine with one" >&2; exit 2; fi
	@$(MAKE) gpu-bundle
	@mkdir -p out && cd out && ../build/gpu-bundle/gpu-check --data demo

.PHONY: nightly
nightly: $(SETUP) ## the reproducibility run: tests, kernels, fuzzers, small real runs; report in out/nightly; ONLY=regex, AGAIN=1
	@$(PYTHON) scripts/nightly.py $${ONLY:+--only "$$ONLY"} $(if $(AGAIN),--again)

.PHONY: newcomer
newcomer: ## the README's commands in a bare Debian 12; needs root and debootstrap
	@tests/newcomer.sh

.PHONY: format
format: ## format the C++ sources in place
	@clang-format -i $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

.PHONY: lint
lint: ## check the format of the C++ sources
	@clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.h' '*.cu' '*.cuh')

.PHONY: clean
clean: ## remove what was built (the Python environment stays)
	rm -rf build/release build/sanitize build/race build/nvcc build/fuzz build/device build/gpu-bundle build/gpu-bundle.tar.xz \
	    build/pvtune

# What objects depend on beside their sources; written when it is another than it was.
TOOLCHAIN := $(OUT)/toolchain
.PHONY: FORCE
$(TOOLCHAIN): FORCE
	@mkdir -p $(@D); new=$@.$$$$; \
	{ $(CXX) --version; $(CXX) -march=native -Q --help=target | grep -E '\[enabled\]|-march= '; \
	    $(if $(DEVICE_OBJECTS),$(NVCC) --version; echo '$(NVCCFLAGS) $(DEVICE_CODE)';) \
	    echo '$(WARNINGS) $(CXXFLAGS.$(VARIANT)) $(KERNELFLAGS) $(KERNELFLAGS.$(VARIANT)) $(KERNELFLAGS.race)'; } >$$new; \
	if cmp -s $$new $@; then rm $$new; else mv $$new $@; fi

$(OUT)/libpvtune.a: $(LIBRARY_OBJECTS)
	@rm -f $@
	@ar rcs $@ $^

$(BINARY): $(PROGRAM_SOURCES:%.cpp=$(OUT)/%.o) $(OUT)/libpvtune.a
	@echo "link $@"
	@$(CXX) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(TESTS): $(OUT)/tests/%: $(OUT)/tests/%.o $(OUT)/libpvtune.a
	@echo "link $@"
	@$(CXX) $(LDFLAGS) -o $@ $^ -lgtest -lgtest_main -lpthread $(LDLIBS)

$(PARITY_PROGRAMS): $(OUT)/%: $(OUT)/%.o $(OUT)/libpvtune.a
	@echo "link $@"
	@$(CXX) $(LDFLAGS) -o $@ $^ -lgtest -lpthread $(LDLIBS)

$(DEVICE_TESTS): $(OUT)/%: $(OUT)/%.o $(OUT)/libpvtune.a
	@echo "link $@"
	@$(CXX) $(LDFLAGS) -o $@ $^ -lgtest -lgtest_main -lpthread $(LDLIBS)

$(EMULATED_TESTS): $(EMULATED)/%: $(EMULATED)/%.o $(EMULATED)/libbackend.a $(EMULATED_KERNELS) $(EMULATED)/libemulation.a $(ORACLES)
	@echo "link $@"
	@$(CXX) $(LDFLAGS) -o $@ $^ -lgtest -lgtest_main -lpthread -lboost_context $(LDLIBS)

# Only the kernels are instrumented, and what they call is tests/emulation/race_hooks.cpp instead of a sanitizer's library.
$(RACE_TESTS): build/race/%: $(EMULATED)/%.o $(EMULATED)/libbackend.a $(RACE_KERNELS) $(RACE_SOURCES:%.cpp=$(EMULATED)/%.o) \
    $(EMULATED)/libemulation.a $(ORACLES)
	@mkdir -p $(@D)
	@echo "link $@"
	@$(CXX) $(LDFLAGS) -o $@ $^ -lgtest -lgtest_main -lpthread -lboost_context $(LDLIBS)

# The whole program with the CUDA backend on the emulated device. The backend's objects come as such and before the
# library, which holds a stand-in for them.
$(EMULATED)/pvtune: $(PROGRAM_SOURCES:%.cpp=$(OUT)/%.o) $(CUDA_BACKEND_SOURCES:%.cpp=$(EMULATED)/%.o) $(EMULATED)/libkernels.a $(EMULATED)/libemulation.a \
    $(OUT)/libpvtune.a
	@echo "link $@"
	@$(CXX) $(LDFLAGS) -o $@ $^ -lboost_context $(LDLIBS)

$(EMULATED)/libkernels.a: $(KERNEL_SOURCES:%.cu=$(EMULATED)/%.o)
build/race/libkernels.a: $(KERNEL_SOURCES:%.cu=build/race/%.o)
$(EMULATED)/libemulation.a: $(EMULATION_SOURCES:%.cpp=$(EMULATED)/%.o)
$(EMULATED)/libbackend.a: $(CUDA_BACKEND_SOURCES:%.cpp=$(EMULATED)/%.o)
$(OUT)/liboracles.a: $(OUT)/host/backend/hadamard.o \
    $(filter-out %/cpu_backend.o,$(filter $(OUT)/host/backend/cpu/%,$(LIBRARY_OBJECTS)))
$(EMULATED)/libkernels.a build/race/libkernels.a $(EMULATED)/libemulation.a $(EMULATED)/libbackend.a $(OUT)/liboracles.a:
	@rm -f $@
	@ar rcs $@ $^

$(DEVICE_OBJECTS): $(OUT)/%.o: %.cu $(TOOLCHAIN)
	@mkdir -p $(@D)
	@echo "nvcc $<"
	@$(NVCC) $(NVCCFLAGS) $(DEVICE_CODE) -MMD -MP -c -o $@ $<

$(EMULATED)/%.o: %.cu $(TOOLCHAIN)
	@mkdir -p $(@D)
	@echo "c++ $(VARIANT), emulated $<"
	@$(CXX) $(KERNELFLAGS) $(KERNELFLAGS.$(VARIANT)) -MMD -MP -c -o $@ $<

build/race/%.o: %.cu $(TOOLCHAIN)
	@mkdir -p $(@D)
	@echo "c++ race $<"
	@$(CXX) $(KERNELFLAGS) $(KERNELFLAGS.race) -MMD -MP -c -o $@ $<

define device_rule
build/nvcc/sm_$(1)/%.o: %.cu
	@mkdir -p $$(@D)
	@echo "nvcc sm_$(1) $$<"
	@nvcc $$(NVCCFLAGS) -Xptxas -v -arch=sm_$(1) -MMD -MP -MF $$(@:.o=.d) -c -o $$@ $$< 2>$$(@:.o=.ptxas) || \
	    { cat $$(@:.o=.ptxas) >&2; exit 1; }
endef
$(foreach architecture,$(ARCHITECTURES),$(eval $(call device_rule,$(architecture))))

$(EMULATED)/%.o: CXXFLAGS += -Itests/emulation
$(EMULATION_SOURCES:%.cpp=$(EMULATED)/%.o): CXXFLAGS += -O2  # half the time of the sanitizers' runs

# What no run spends its time in: the command line's and GoogleTest's templates are half of all compilation at -O3.
$(OUT)/host/commands/%.o $(OUT)/tests/%.o $(EMULATED)/tests/cuda/%.o: CXXFLAGS += -O1
$(OUT)/tests/%.o: CXXFLAGS += -DPVTUNE_SOURCE_DIR='"$(CURDIR)"'

$(OUT)/%.o $(EMULATED)/%.o: %.cpp $(TOOLCHAIN)
	@mkdir -p $(@D)
	@echo "c++ $(VARIANT) $<"
	@$(CXX) $(CXXFLAGS) -MMD -MP -c -o $@ $<

.SECONDARY:
-include $(shell find $(OUT) build/race build/nvcc -name '*.d' 2>/dev/null)
