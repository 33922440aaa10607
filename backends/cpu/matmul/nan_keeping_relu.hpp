#pragma once
#include <cstdint>
#include <memory>

#include "backends/backend.hpp"

namespace fusetape::backends::cpu::matmul {

/// oneDNN's ReLU turns a NaN into 0 (it is maxps(x, 0)), ours keeps it. maxps of a NaN sets the processor's
/// sticky invalid flag, so that a run without one costs two looks at the flags; a run with one is done again,
/// with the ReLU apart. `fused` and `plain` write the same `y`.
class NanKeepingRelu final : public Kernel {
 public:
  NanKeepingRelu(const plan::Graph& graph, int y, std::unique_ptr<Kernel> fused,
                 std::unique_ptr<Kernel> plain);

  void run(const KernelArgs& args) override;
  std::size_t scratch_bytes() const override;

 private:
  int y_;
  DType dtype_;
  std::int64_t elements_;
  std::unique_ptr<Kernel> fused_, plain_;
};

}  // namespace fusetape::backends::cpu::matmul
