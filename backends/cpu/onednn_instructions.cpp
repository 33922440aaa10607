#include "backends/cpu/onednn_instructions.hpp"

#include <cpuid.h>
#include <strings.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <oneapi/dnnl/dnnl.hpp>

namespace fusetape::backends::cpu {
namespace {

bool has_amx() {
  constexpr unsigned features = 7, amx_tile = 1U << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(features, 0, &a, &b, &c, &d) != 0 && (d & amx_tile) != 0;
}

/// oneDNN's names of what is less than ours.
bool environment_asks_for_less() {
  constexpr const char* less[] = {"SSE41",           "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE",
                                  "AVX512_CORE_VNNI"};
  const char* set = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (set == nullptr) set = std::getenv("DNNL_MAX_CPU_ISA");
  return set != nullptr && std::any_of(std::begin(less), std::end(less),
                                       [&](const char* name) { return ::strcasecmp(set, name) == 0; });
}

}  // namespace

std::string limit_onednn_instructions() {
  if (!has_amx() || environment_asks_for_less()) return {};
  if (dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core_bf16) == dnnl::status::success) {
    return "oneDNN up to avx512_core_bf16: its AMX kernels have known faults";
  }
  return "oneDNN was used before fusetape could limit it: its AMX kernels, which have known faults, may run";
}

}  // namespace fusetape::backends::cpu
