# Each target does what it needs before it: `make test` and `make train` work on a bare machine.
#   make deps     packages and oneDNN (the only target that touches the system)
#   make build    library and examples        make test      everything, then every test (FUSETAPE_CUDA_DOUBLE=ON: and
#                 the CUDA backend's, on a double of the device; `test` and `fuzz` take it, and OFF again)
#   make cuda     the same for CUDA, and its tests (deps-cuda: what it needs, in .deps; `test` does it where nvcc is)
#   make fuzz     random programs (SEEDS=3000) in every mode
#   make fuzz-readers   hostile files for every reader, with libFuzzer (SECONDS=60 for each)
#   make torture  kills (KILLS=500) and disk faults: nothing saved is lost, every restart goes on
#   make bench    the same steps in PyTorch beside ours (installs PyTorch, several GB, for itself)
#   make train    ResNet-20 on CIFAR-10       make compare   a step with fusion beside one without
#   make plan-diff BASE=REVISION    what differs in the plans of the examples' models, theirs and ours
#   make bench-diff BASE=REVISION   a training step of theirs beside ours, alternating
#   make size     lines and stripped size of the library
#   make lint     format, layers, clang-tidy  make format    rewrite the sources in the project's format
.DEFAULT_GOAL := build
.PHONY: deps deps-lint deps-cuda deps-fuzz build cuda test fuzz fuzz-readers torture bench train compare plan-diff bench-diff size lint format clean
.NOTPARALLEL:

EPOCHS ?= 3
SEEDS ?= 3000
SECONDS ?= 60
FIRST ?= 1
KILLS ?= 500
JOBS ?= $(shell nproc)

# The first g++ that is new enough, unless CXX is set. Asked for late: `deps` may only just have installed it.
ifeq ($(origin CXX),default)
CXX = $(shell tools/find_tool.sh g++)
endif
RELEASE := build/release
PROGRAMS := $(RELEASE)/examples
SOURCES = $(shell find include core ops backends nn examples tests benchmarks -name '*.cpp' -o -name '*.hpp' \
            -o -name '*.cu' -o -name '*.cuh' 2>/dev/null)
LIBRARY_SOURCES = $(filter-out backends/cuda/%,$(filter core/%.cpp ops/%.cpp backends/%.cpp nn/%.cpp,$(SOURCES)))

deps:
	@tools/deps.sh

deps-cuda:
	@tools/deps_cuda.sh

deps-lint:
	@tools/deps.sh --lint

deps-fuzz:
	@tools/deps.sh --fuzz

build/%/build.ninja: | deps
	CXX="$(CXX)" cmake --preset $*

# A build folder goes on as it is, with the double of a CUDA device or without, until it is told.
set_double = $(if $(FUSETAPE_CUDA_DOUBLE),cmake -DFUSETAPE_CUDA_DOUBLE=$(FUSETAPE_CUDA_DOUBLE) $(RELEASE))

build: deps $(RELEASE)/build.ninja
	cmake --build --preset release -j $(JOBS) --target fusetape fusetape_examples

test: deps $(RELEASE)/build.ninja
	$(set_double)
	cmake --build --preset release -j $(JOBS)
	ctest --preset release -j $(JOBS)
	if command -v nvcc >/dev/null; then $(MAKE) --no-print-directory cuda; fi

cuda: deps deps-cuda build/cuda/build.ninja
	cmake --build --preset cuda -j $(JOBS)
	ctest --preset cuda -j $(JOBS)

# N random programs (default 3,000) in every mode, from seed FIRST on, a process a core.
fuzz: deps $(RELEASE)/build.ninja
	$(set_double)
	cmake --build --preset release -j $(JOBS) --target fusetape_tests
	each=$$(( ($(SEEDS) + $(JOBS) - 1) / $(JOBS) )); seq $(FIRST) $$each $$(( $(FIRST) + $(SEEDS) - 1 )) | \
	  OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 FUSETAPE_SEEDS=$$each xargs -P $(JOBS) -I '{}' \
	  env FUSETAPE_FIRST_SEED='{}' $(RELEASE)/tests/fusetape_tests --source-file='*/random_graph_test.cpp'

# Each reader of foreign bytes for SECONDS; what is found stays in build/fuzz. The corpus is in tests/fuzz/corpus.
fuzz-readers: deps deps-fuzz $(RELEASE)/build.ninja
	cmake --build --preset release -j $(JOBS) --target fusetape
	cmake --install $(RELEASE) --prefix build/fuzz/installed >/dev/null
	cmake -S tests/fuzz -B build/fuzz -G Ninja -DCMAKE_CXX_COMPILER=$(shell tools/find_tool.sh clang++) \
	  -DCMAKE_PREFIX_PATH=$(CURDIR)/build/fuzz/installed -DFUSETAPE_ONEDNN_INCLUDE_DIR=$(CURDIR)/.deps/onednn/include
	cmake --build build/fuzz -j $(JOBS)
	ls tests/fuzz/corpus | OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1 \
	  xargs -P $(JOBS) -I '{}' sh -c 'mkdir -p build/fuzz/found/{} && build/fuzz/fuzz_{} -max_total_time=$(SECONDS) \
	    -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -verbosity=0 -artifact_prefix=build/fuzz/{}- \
	    build/fuzz/found/{} tests/fuzz/corpus/{}'

torture: deps $(RELEASE)/build.ninja
	cmake --build --preset release -j $(JOBS) --target example_resnet_cifar disk_faults save_once
	python3 tests/torture/torture.py faults --build $(RELEASE)
	python3 tests/torture/torture.py kills --build $(RELEASE) --kills $(KILLS)

train: build
	@data=$$(tools/fetch_cifar10.sh) && set -x && \
	  $(PROGRAMS)/resnet_cifar --data "$$data" --depth 20 --epochs $(EPOCHS) --batch 128 --lr 0.4 --seed 1 \
	    --out runs/train && \
	  $(PROGRAMS)/compare_fusion --model resnet20 --batch 128 --steps 10 --json runs/train/compare.json

bench: build
	python3 benchmarks/suite.py --json runs/bench.json

compare: build
	$(PROGRAMS)/compare_fusion

plan-diff: build
	JOBS=$(JOBS) python3 tools/plan_diff.py $(or $(BASE),$(error plan-diff takes BASE=REVISION))

bench-diff: build
	JOBS=$(JOBS) python3 tools/bench_diff.py $(or $(BASE),$(error bench-diff takes BASE=REVISION))

# The budget of CONTRIBUTING.md.
size: build
	@git ls-files include core ops backends nn | xargs cat | wc -l | sed 's/$$/ lines of the library/'
	@strip --strip-unneeded -o $(RELEASE)/stripped.a $(RELEASE)/libfusetape.a && stat -c '%s bytes of it, stripped' $(RELEASE)/stripped.a

lint: deps-lint build/dev/build.ninja
	$(shell tools/find_tool.sh clang-format) --dry-run -Werror $(SOURCES)
	tools/check_layers.sh
	tools/check_types.py
	printf '%s\n' $(LIBRARY_SOURCES) | xargs -n 1 -P $(JOBS) $(shell tools/find_tool.sh clang-tidy) -p build/dev \
	  --quiet --extra-arg=-Wno-unknown-warning-option

format: deps-lint
	$(shell tools/find_tool.sh clang-format) -i $(SOURCES)

clean:
	rm -rf build
