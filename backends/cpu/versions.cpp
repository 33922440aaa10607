#include <cblas.h>
#include <hwy/highway.h>
#include <hwy/targets.h>
#include <sched.h>

#include <cstdio>
#include <fstream>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>

#include "backends/cpu/versions.hpp"
#include "fusetape/runtime.hpp"

namespace fusetape {

std::string backends::cpu::library_versions() {
  const dnnl_version_t* onednn = dnnl_version();
  std::string openblas = openblas_get_config();  // "OpenBLAS 0.3.21 NO_LAPACKE …"
  openblas = openblas.substr(0, openblas.find(' ', openblas.find(' ') + 1));
  char text[256];
  std::snprintf(text, sizeof text, "fusetape 0.1.0, oneDNN %d.%d.%d, %s (%s), Highway %d.%d.%d, %s %s",
                onednn->major, onednn->minor, onednn->patch, openblas.c_str(), openblas_get_corename(),
                HWY_MAJOR, HWY_MINOR, HWY_PATCH,
#ifdef __clang__
                "clang", __clang_version__
#else
                "g++", __VERSION__
#endif
  );
  return text;
}

namespace {

/// The CPUs that this thread may run on: "0-3,8".
std::string allowed_cpus() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return "unknown";
  const auto is_in = [&](int cpu) { return cpu < CPU_SETSIZE && CPU_ISSET(cpu, &allowed); };
  std::string text;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!is_in(cpu)) continue;
    int last = cpu;
    while (is_in(last + 1)) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(cpu);
    if (last > cpu) text += "-" + std::to_string(last);
    cpu = last;
  }
  return text;
}

}  // namespace

std::string versions() { return backends::cpu::library_versions() + "; CPUs " + allowed_cpus(); }

std::string cpu_name() {
  std::string model = "unknown CPU";
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) {
      model = line.substr(line.find(':') + 2);
      break;
    }
  }
  const std::int64_t best =
      hwy::SupportedTargets() & -hwy::SupportedTargets();  // the lowest bit is the best target
  return model + ", " + hwy::TargetName(best);
}

}  // namespace fusetape
