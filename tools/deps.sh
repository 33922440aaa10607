#!/usr/bin/env bash
# Brings in what fusetape needs: Debian/Ubuntu packages, and oneDNN unpacked into .deps/onednn.
# With --lint, clang-format and clang-tidy as well; with --fuzz, clang and libFuzzer. Quick and silent where everything is there already.
# The only script that touches the system.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

want_lint=no want_fuzz=no
[ "${1:-}" = --lint ] && want_lint=yes
[ "${1:-}" = --fuzz ] && want_fuzz=yes

requirements=cmake/onednn-requirements.txt
llvm=16   # the first whose clang knows std::source_location
mkdir -p .deps
exec 9>.deps/.lock
flock 9   # two `make` in one checkout take turns

missing=()
need_command() { command -v "$1" >/dev/null || missing+=("$2"); }
need_package() {
  [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ] || missing+=("$1")
}
need_compiler() {  # g++ 12 or later; Ubuntu 22.04 has it beside its default 11
  if ! command -v g++ >/dev/null; then
    missing+=(g++)
  elif [ -z "$(tools/find_tool.sh g++)" ]; then
    missing+=(g++-12)
  fi
}
onednn_is_unpacked() {
  [ "$(cat .deps/onednn/.stamp 2>/dev/null)" = "$(sha256sum <"$requirements")" ]
}

find_missing() {
  missing=()
  need_compiler
  need_command make make
  need_command cmake cmake
  need_command ninja ninja-build
  need_command python3 python3
  onednn_is_unpacked || python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
  need_package libopenblas-openmp-dev
  need_package libhwy-dev
  need_package nlohmann-json3-dev
  need_package doctest-dev
  need_package libcli11-dev
  if [ $want_lint = yes ]; then
    [ -n "$(tools/find_tool.sh clang-format)" ] || missing+=("clang-format-$llvm")
    [ -n "$(tools/find_tool.sh clang-tidy)" ] || missing+=("clang-tidy-$llvm" "libomp-$llvm-dev")
  fi
  if [ $want_fuzz = yes ] && ! has_fuzzer; then missing+=("clang-$llvm" "libclang-rt-$llvm-dev"); fi
}

has_fuzzer() {  # beside the clang that would be called
  local clang
  clang=$(tools/find_tool.sh clang++)
  [ -n "$clang" ] && ls "$("$clang" -print-resource-dir)"/lib/*/libclang_rt.fuzzer* >/dev/null 2>&1
}

refuse() {
  echo "deps: $1" >&2
  echo "deps: missing (Debian/Ubuntu package names): ${missing[*]}" >&2
  echo "deps: install these, then run the same command again." >&2
  exit 1
}

find_root() {  # leaves in `root` the command that gives us rights
  root=()
  command -v apt-get >/dev/null || refuse "this machine has no apt-get."
  [ "$(id -u)" -eq 0 ] && return
  command -v sudo >/dev/null || refuse "not root, and there is no sudo."
  sudo -n true 2>/dev/null || [ -t 0 ] || refuse "not root, and sudo would ask for a password."
  root=(sudo)
}

install_missing() {
  echo "deps: installing ${missing[*]}"
  # A third-party source that fails must not stop an install which does without it.
  ${root[@]+"${root[@]}"} apt-get update -qq || echo "deps: 'apt-get update' failed; going on without." >&2
  if ! ${root[@]+"${root[@]}"} env DEBIAN_FRONTEND=noninteractive \
      apt-get install -y -qq --no-install-recommends "${missing[@]}" >.deps/apt.log 2>&1; then
    tail -n 20 .deps/apt.log >&2
    refuse "apt-get install failed."
  fi
}

unpack_onednn() {
  local tmp=.deps/onednn.tmp
  echo "deps: unpacking oneDNN into .deps/onednn"
  rm -rf "$tmp"
  mkdir -p "$tmp/wheels" "$tmp/raw" "$tmp/tree"
  python3 -m pip download --quiet --disable-pip-version-check --no-input --no-deps --require-hashes \
    --only-binary=:all: -d "$tmp/wheels" -r "$requirements"
  for wheel in "$tmp"/wheels/*.whl; do
    python3 -m zipfile -e "$wheel" "$tmp/raw"
  done
  cp -r "$tmp"/raw/*.data/data/. "$tmp/tree/"
  # A wheel holds no links, so it brings the same library three times.
  ln -sf libdnnl.so.3.2 "$tmp/tree/lib/libdnnl.so.3"
  ln -sf libdnnl.so.3 "$tmp/tree/lib/libdnnl.so"
  chmod 755 "$tmp/tree/lib/libdnnl.so.3.2"
  sha256sum <"$requirements" >"$tmp/tree/.stamp"
  rm -rf .deps/onednn
  mv "$tmp/tree" .deps/onednn
  rm -rf "$tmp"
}

find_missing
if [ ${#missing[@]} -gt 0 ]; then
  find_root
  install_missing
  find_missing                                              # a default g++ that is too old shows only now
  [ ${#missing[@]} -eq 0 ] || { install_missing; find_missing; }
  [ ${#missing[@]} -eq 0 ] || refuse "still missing after the install."
fi
onednn_is_unpacked || unpack_onednn
