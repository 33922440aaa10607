#include <cblas.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <cstdio>
#include <fstream>
#include <oneapi/dnnl/dnnl.hpp>
#include <string>

#include "fusetape/runtime.hpp"

namespace fusetape {

std::string versions() {
  const dnnl_version_t* onednn = dnnl_version();
  std::string openblas = openblas_get_config();  // "OpenBLAS 0.3.21 NO_LAPACKE …"
  openblas = openblas.substr(0, openblas.find(' ', openblas.find(' ') + 1));
  char text[256];
  std::snprintf(text, sizeof text, "fusetape 0.1.0, oneDNN %d.%d.%d, %s, Highway %d.%d.%d, %s %s",
                onednn->major, onednn->minor, onednn->patch, openblas.c_str(), HWY_MAJOR, HWY_MINOR,
                HWY_PATCH,
#ifdef __clang__
                "clang", __clang_version__
#else
                "g++", __VERSION__
#endif
  );
  return text;
}

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
