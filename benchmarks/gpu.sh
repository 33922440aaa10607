#!/usr/bin/env bash
# Everything that a machine with an NVIDIA GPU can show: build, tests, sanitizer, step times beside our own unfused
# steps and beside PyTorch's, accuracy.
#
#   benchmarks/gpu.sh [option…] [stage…]    all stages, or these: by name, or by its beginning ("pytorch")
#
#   --list          name the stages and end
#   --json FILE     where all that is found goes (runs/gpu.json); its table is printed at the end
#   --missing       leave out the measurements that FILE has already, whole
#   --python PYTHON one that has PyTorch (else: as benchmarks/vs_pytorch.py finds one)
#   --data FOLDER   CIFAR-10's binary files, for the accuracy (else: $CIFAR10_DIR; without, no accuracy)
#
# A stage has ten minutes. One that is cut off or fails is recorded as such, with the rows that it had written, and
# the rest goes on; the exit status is 1 then.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."

readonly stage_seconds=600
readonly build=build/cuda
readonly timed_models="resnet20 resnet18" precisions="bf16 f16 f32 tf32"

json=runs/gpu.json python='' data=${CIFAR10_DIR:-} missing='' only=''

usage() { sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "$here/gpu.sh"; }

die() {
  echo "gpu.sh: $*" >&2
  exit 1
}

stages() {
  local model precision
  printf '%s\n' build tests-device tests-ops tests-random sanitizer-memcheck sanitizer-racecheck
  for model in $timed_models; do
    for precision in $precisions; do echo "compare-$model-$precision"; done
  done
  for model in $timed_models; do
    for precision in $precisions; do echo "pytorch-$model-$precision"; done
  done
  printf '%s\n' accuracy-bf16 accuracy-f32
}

# ---- the stages

jobs() { getconf _NPROCESSORS_ONLN; }

stage_build() {
  make --no-print-directory deps deps-cuda "$build/build.ninja"
  cmake --build --preset cuda -j "$(jobs)"
  cmake --build --preset cuda -j "$(jobs)" --target fusetape_tests
}

stage_tests() {  # stage_tests device|ops|random
  need "$build/tests/fusetape_tests"
  case $1 in
    device) ctest --preset cuda ;;
    ops) "$build/tests/fusetape_tests" --source-file='*/cuda_ops_test.cpp' --test-case='cuda on a device*' ;;
    # Every program compiles kernels of its own.
    random) FUSETAPE_SEEDS=100 "$build/tests/fusetape_tests" --source-file='*/random_graph_test.cpp' ;;
  esac
}

# On the small op cases. Errors that CUDA's calls return are the library's to handle, and races of cuDNN's kernels
# are not ours.
stage_sanitizer() {  # stage_sanitizer memcheck|racecheck
  local sanitizer filter=()
  need "$build/tests/fusetape_tests"
  sanitizer=$(find_cuda compute-sanitizer) || skip "there is no compute-sanitizer here"
  [ "$1" = memcheck ] || filter=(--kernel-name kns=fusetape)
  local -a check=("$sanitizer" --tool "$1" --error-exitcode 9 "${filter[@]}")
  [ "$1" = racecheck ] || check+=(--report-api-errors no)
  "${check[@]}" "$build/tests/fusetape_cuda_tests" --source-file='*/on_device_test.cpp,*/program_test.cpp'
  "${check[@]}" "$build/tests/fusetape_tests" --source-file='*/cuda_ops_test.cpp' \
    --test-case='cuda on a device*small cases*'
}

stage_compare() {  # stage_compare MODEL PRECISION
  need "$build/examples/compare_fusion"
  measure --kind fusion --model "$1" --precision "$2"
}

stage_pytorch() {  # stage_pytorch MODEL PRECISION
  need "$build/examples/compare_fusion"
  python3 -c 'import sys, vs_pytorch; sys.exit(not (sys.argv[1] or vs_pytorch.found_pytorch()))' "$python" ||
    skip "there is no PyTorch here: --python, or benchmarks/vs_pytorch.py --setup once"
  measure --kind pytorch --model "$1" --precision "$2" ${python:+--python "$python"}
}

stage_accuracy() {  # stage_accuracy PRECISION
  need "$build/examples/resnet_cifar"
  [ -n "$data" ] || skip "no folder of CIFAR-10 was given (--data)"
  measure --kind accuracy --precision "$1" --data "$data"
}

measure() { python3 benchmarks/gpu_compare.py --json "$json" --programs "$build/examples" ${missing:+--missing} "$@"; }

need() { [ -x "$1" ] || die "$1 is not there: run the stage build first"; }

readonly skipped=77  # as ctest and automake have it
skip() {
  echo "gpu.sh: skipped: $*"
  exit "$skipped"
}

find_cuda() {  # a tool of the toolkit's
  command -v "$1" && return
  local folder
  for folder in "${CUDA_HOME:-}/bin" /usr/local/cuda/bin .deps/cuda/bin; do
    [ -x "$folder/$1" ] && echo "$folder/$1" && return
  done
  return 1
}

run_stage() {  # in a process of its own: sanitizer-memcheck is stage_sanitizer memcheck
  local -a words
  IFS=- read -ra words <<<"$1"
  export PYTHONPATH=$here PYTHONDONTWRITEBYTECODE=1
  "stage_${words[0]}" "${words[@]:1}"
}

# ---- one after the other

note() { python3 benchmarks/gpu_results.py "$1" --json "$json" "${@:2}"; }

outcome_of() {  # of an exit status
  case $1 in
    0) echo ok ;;
    "$skipped") echo skipped ;;
    124 | 137) echo "cut off after $stage_seconds s" ;;
    *) echo "failed ($1)" ;;
  esac
}

bounded() {  # bounded STAGE: in a process that ends in time
  timeout --kill-after=20 "$stage_seconds" "$here/gpu.sh" --inside "$1" --json "$json" --python "$python" \
    --data "$data" ${missing:+--missing}
}

run_all() {  # run_all STAGE…: whether all are well
  local stage start status well=0
  for stage in "$@"; do
    echo "== $stage"
    start=$SECONDS status=0
    bounded "$stage" || status=$?
    note stage --name "$stage" --outcome "$(outcome_of "$status")" --seconds $((SECONDS - start))
    echo "== $stage: $(outcome_of "$status"), $((SECONDS - start)) s"
    [ "$status" = 0 ] || [ "$status" = "$skipped" ] || well=1
  done
  return "$well"
}

chosen_stages() {  # chosen_stages NAME…: those that are one of these names or begin with one; all for none
  local name found
  [ $# -gt 0 ] || stages
  for name in "$@"; do
    found=$(stages | grep -E -- "^$name(-|\$)") || die "there is no stage '$name' (--list names them)"
    echo "$found"
  done
}

main() {
  local -a names=()
  while [ $# -gt 0 ]; do
    case $1 in
      --list) stages; exit ;;
      -h | --help) usage; exit ;;
      --missing) missing=yes ;;
      --json | --python | --data | --inside)
        [ $# -ge 2 ] || die "$1 needs a value (--help)"
        case $1 in
          --json) json=$2 ;;
          --python) python=$2 ;;
          --data) data=$2 ;;
          --inside) only=$2 ;;
        esac
        shift
        ;;
      -*) die "there is no option '$1' (--help)" ;;
      *) names+=("$1") ;;
    esac
    shift
  done
  if [ -n "$only" ]; then
    run_stage "$only"
    return
  fi

  local list well=0
  list=$(chosen_stages "${names[@]}")
  note machine --nvcc "$(find_cuda nvcc || echo nvcc)"
  # shellcheck disable=SC2086  # names without blanks
  run_all $list || well=1
  note table | tee "${json%.json}.md"
  return "$well"
}

main "$@"
