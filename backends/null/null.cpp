// The null backend: plans as a device with every fused kernel would, and runs nothing. Parts of batch norms
// ride where the CPU's built-in order has them ride.
#include <array>
#include <cstdlib>
#include <cstring>

#include "backends/backend.hpp"
#include "backends/candidate_choice.hpp"
#include "backends/cpu/candidates.hpp"
#include "backends/cpu/conv/rows/row_convolution.hpp"
#include "backends/cpu/conv/winograd_candidate.hpp"

namespace fusetape::backends {
namespace {

class NullKernel final : public Kernel {
 public:
  NullKernel(const plan::Graph& graph, const plan::Group& group) {
    name = "null";
    tensor_passes = plan::tensor_passes(graph, group);
  }
  void run(const KernelArgs&) override {}
};

class NullBackend final : public Backend {
 public:
  std::string_view name() const override { return "null"; }

  /// Real memory, that leaves have somewhere to be; the system backs it only where it is written.
  void* allocate(std::size_t bytes) override {
    void* data = std::aligned_alloc(64, (bytes / 64 + 1) * 64);
    if (data == nullptr)
      throw Error("allocate", "expected " + std::to_string(bytes) + " bytes of memory, got none");
    return data;
  }
  void free(void* data, std::size_t) override { std::free(data); }
  void upload(void* to, const void* from, std::size_t bytes) override {
    if (bytes != 0) std::memcpy(to, from, bytes);
  }
  void download(void* to, const void* from, std::size_t bytes) override { upload(to, from, bytes); }
  void synchronize() override {}

  Support supports(const plan::Graph& graph, const plan::Group& group) const override {
    const auto* conv = group.as<plan::Convolution>();
    if (conv == nullptr || !conv->carries()) return {};
    const std::array lists{cpu::conv::winograd_convolutions(), cpu::conv::row_convolutions()};
    return support_of(choose(lists, graph, group), group, "CPU");
  }
  bool carries(const plan::Graph& graph, const plan::GraphNode& convolution, NormPart,
               const core::OpDef* activation) const override {
    return cpu::conv::winograd_carries(graph, convolution, activation) ||
           cpu::conv::rows_carry(graph, convolution);
  }
  std::unique_ptr<Kernel> compile(const plan::Graph& graph, const plan::Group& group) override {
    return std::make_unique<NullKernel>(graph, group);
  }
  bool executes() const override { return false; }
};

}  // namespace

std::unique_ptr<Backend> make_null_backend() { return std::make_unique<NullBackend>(); }

}  // namespace fusetape::backends
