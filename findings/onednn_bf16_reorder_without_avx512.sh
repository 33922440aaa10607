#!/usr/bin/env bash
# oneDNN 3.2.0 on a CPU without AVX-512 (or with ONEDNN_MAX_CPU_ISA=AVX2): a reorder between f32 and bf16 of one and the
# same plain layout, a loop that shifts 16 bits, runs in the implementation "simple:any".
# Expected: a vectorised conversion at the speed of memory, as "jit:uni" is between layouts of f32 on the same CPU.
# Seen: simple:any, 60 to 120 ns an element on one thread; f32 to f32 in the same implementation takes 0.2 to 2 ns.
# A bf16 convolution that goes through f32 on such a CPU spends 99 % of its time there: convert by a loop of your own.
# Needs g++ and python3 with pip. Fails when the implementation is another one, or the factor is below 10.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check onednn-cpu-gomp==2023.2.0 onednn-devel-cpu-gomp==2023.2.0
cat >reorder.cpp <<'CPP'
#include <chrono>
#include <cstdio>
#include <dnnl.hpp>
#include <string>

struct Run {
  std::string implementation;
  double nanoseconds;
};

Run reorder(dnnl::memory from, dnnl::memory to, dnnl::stream stream) {
  const dnnl::reorder::primitive_desc desc(from, to);
  const dnnl::reorder primitive(desc);
  primitive.execute(stream, from, to);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 5; ++i) primitive.execute(stream, from, to);
  stream.wait();
  const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
  return {desc.impl_info_str(), spent.count() / 5 / (8 * 16 * 32 * 32)};
}

int main() {
  using dnnl::memory;
  dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(cpu);
  const memory::dims dims{8, 16, 32, 32};
  const auto nhwc = memory::format_tag::nhwc;
  memory wide({dims, memory::data_type::f32, nhwc}, cpu), other({dims, memory::data_type::f32, nhwc}, cpu);
  memory half({dims, memory::data_type::bf16, nhwc}, cpu);
  const Run narrow = reorder(wide, half, stream), widen = reorder(half, wide, stream), copy = reorder(wide, other, stream);
  const dnnl_version_t* version = dnnl_version();
  std::printf("oneDNN %d.%d.%d\n", version->major, version->minor, version->patch);
  std::printf("f32 to bf16: %s, %.1f ns an element\n", narrow.implementation.c_str(), narrow.nanoseconds);
  std::printf("bf16 to f32: %s, %.1f ns an element\n", widen.implementation.c_str(), widen.nanoseconds);
  std::printf("f32 to f32:  %s, %.1f ns an element\n", copy.implementation.c_str(), copy.nanoseconds);
  const bool as_seen = narrow.implementation == "simple:any" && widen.implementation == "simple:any" &&
                       narrow.nanoseconds > 10 * copy.nanoseconds && widen.nanoseconds > 10 * copy.nanoseconds;
  return as_seen ? 0 : 1;
}
CPP
library=$(find venv -name 'libdnnl.so.3' | head -1)
header=$(find venv -name dnnl.hpp | head -1)
g++ -std=c++20 -O2 -I"$(dirname "$header")" reorder.cpp "$library" -Wl,-rpath,"$(dirname "$(realpath "$library")")" -o reorder
OMP_NUM_THREADS=1 ONEDNN_MAX_CPU_ISA=AVX2 ./reorder
