#!/usr/bin/env bash
# Brings in what the CUDA build needs beside `make deps`: the headers of cudnn-frontend, cuDNN where the toolkit
# has none, and, where there is no nvcc at all, a CUDA toolkit. All of it from PyPI, unpacked into .deps; nothing
# outside of .deps is touched. Quick and silent where everything is there already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mkdir -p .deps
exec 9>.deps/.lock
flock 9   # two `make` in one checkout take turns

is_unpacked() {  # is_unpacked NAME REQUIREMENTS: that into .deps/NAME
  [ "$(cat ".deps/$1/.stamp" 2>/dev/null)" = "$(sha256sum <"$2")" ]
}

# unpack NAME REQUIREMENTS FOLDER [PIP-OPTION…]: FOLDER of the wheels becomes .deps/NAME
unpack() {
  local name=$1 requirements=$2 tmp=.deps/$1.tmp
  local tree=$tmp/raw
  [ "$3" = . ] || tree=$tmp/raw/$3
  shift 3
  python3 -m pip --version >/dev/null 2>&1 || { echo "deps-cuda: needs pip (make deps)." >&2; exit 1; }
  echo "deps-cuda: unpacking $name into .deps/$name"
  rm -rf "$tmp"
  mkdir -p "$tmp/wheels" "$tmp/raw"
  python3 -m pip download --quiet --disable-pip-version-check --no-input --no-deps --require-hashes \
    --only-binary=:all: "$@" -d "$tmp/wheels" -r "$requirements"
  for wheel in "$tmp"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$tmp/raw"
  done
  link_libraries "$tree/lib"
  sha256sum <"$requirements" >"$tree/.stamp"
  rm -rf ".deps/$name"
  mv "$tree" ".deps/$name"
  rm -rf "$tmp"
}

link_libraries() {  # a wheel holds no links: libx.so.9 is there, libx.so is not
  local library
  for library in "$1"/lib*.so.*; do
    [ -e "$library" ] && ln -sf "$(basename "$library")" "${library%%.so.*}.so"
  done
  return 0
}

toolkit_has_cudnn() {  # version 9 or later among nvcc's own headers
  local version
  version=$(printf '#include <cudnn_version.h>\nCUDNN_MAJOR\n' | "$nvcc" -E -x cu - 2>/dev/null | tail -n 1)
  [ "${version:-0}" -ge 9 ] 2>/dev/null
}

unpack_toolkit() {
  unpack cuda cmake/cuda-toolkit-requirements.txt nvidia/cu13
  chmod +x .deps/cuda/bin/* .deps/cuda/nvvm/bin/*   # a zip file's modes are lost
  ln -sfn lib .deps/cuda/lib64
}

is_unpacked cudnn-frontend cmake/cudnn-frontend-requirements.txt ||
  unpack cudnn-frontend cmake/cudnn-frontend-requirements.txt . \
    --python-version 3.11 --implementation cp --abi cp311 --platform manylinux_2_28_x86_64

if ! nvcc=$(command -v nvcc); then
  is_unpacked cuda cmake/cuda-toolkit-requirements.txt || unpack_toolkit
  nvcc=.deps/cuda/bin/nvcc
fi
major=$("$nvcc" --version | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
cudnn=cmake/cudnn-cu$major-requirements.txt
if [ ! -e "$cudnn" ]; then
  echo "deps-cuda: $nvcc is of CUDA $major; fusetape needs 12.8 or later, or 13." >&2
  exit 1
fi
is_unpacked cudnn "$cudnn" || toolkit_has_cudnn || unpack cudnn "$cudnn" nvidia/cudnn
