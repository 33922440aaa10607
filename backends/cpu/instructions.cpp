#include "backends/cpu/instructions.hpp"

#include <cpuid.h>
#include <hwy/highway.h>
#include <strings.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <oneapi/dnnl/dnnl.hpp>

#include "fusetape/error.hpp"

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

std::string limit_to_avx2() {
  hwy::DisableTargets(HWY_AVX2 - 1);  // the better a target, the lower its bit
  const char* const rest = dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx2) == dnnl::status::success
                               ? "oneDNN's and our own kernels"
                               : "our own kernels, but not oneDNN's, which was used before,";
  return std::string(rest) + " up to avx2: FUSETAPE_ISA";
}

}  // namespace

std::string limit_instructions() {
  if (const char* set = std::getenv("FUSETAPE_ISA"); set != nullptr && *set != '\0') {
    if (std::strcmp(set, "avx2") != 0)
      throw Error("FUSETAPE_ISA",
                  std::string("expected avx2, or nothing for all that the CPU has, got '") + set + "'");
    return limit_to_avx2();
  }
  if (!has_amx() || environment_asks_for_less()) return {};
  if (dnnl::set_max_cpu_isa(dnnl::cpu_isa::avx512_core_bf16) == dnnl::status::success) {
    return "oneDNN up to avx512_core_bf16: its AMX kernels have known faults";
  }
  return "oneDNN was used before fusetape could limit it: its AMX kernels, which have known faults, may run";
}

bool multiplies_bf16() {
  constexpr int wanted = static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
  return (static_cast<int>(dnnl::get_effective_cpu_isa()) & wanted) == wanted;
}

}  // namespace fusetape::backends::cpu
