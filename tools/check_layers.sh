#!/usr/bin/env bash
# Includes point one way (CONTRIBUTING.md). Prints every line that points back; silent where there is none.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

found=0
forbid() {  # forbid FOLDER PATTERN: no #include "..." or <...> in FOLDER begins with PATTERN
  if [ -d "$1" ] && grep -rnE --include='*.[ch]pp' "^ *# *include *[<\"]($2)" "$1"; then
    echo "layers: $1/ must not include the above" >&2
    found=1
  fi
}

forbid include 'core/|ops/|backends/|nn/|dnnl|oneapi/|cblas|hwy/|nlohmann/|omp\.h'
forbid core 'ops/|backends/|nn/'
forbid ops 'backends/|nn/'
forbid backends 'nn/'
forbid nn 'core/plan/|backends/'
forbid examples 'core/|ops/|backends/|nn/'
exit $found
