#include "backends/cuda/host_kernel.hpp"

#include <vector>

#include "backends/custom_kernel.hpp"

namespace fusetape::backends::cuda {
namespace {

class HostKernel final : public Kernel {
 public:
  HostKernel(const plan::Graph& graph, const plan::Group& group, Staging& staging)
      : staging_(staging),
        kernel_(is_custom(graph, group) ? make_custom_kernel(graph, group)
                                        : make_reference_kernel(graph, group)),
        inputs_(places_of(graph, group.inputs)),
        outputs_(places_of(graph, written(graph, group))),
        pointers_(graph.values.size()) {
    name = "host:" + kernel_->name;
    tensor_passes = kernel_->tensor_passes;
    scratch_at_ = bytes_;
    memory_.resize(bytes_ + kernel_->scratch_bytes() + alignment);
  }

  std::vector<std::pair<int, int>> in_place() const override { return kernel_->in_place(); }
  bool waits() const override { return true; }

  void run(const KernelArgs& args) override {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    std::byte* const base = memory_.data() + (alignment - address % alignment) % alignment;
    for (const Place& input : inputs_) {
      pointers_[static_cast<std::size_t>(input.value)] = base + input.offset;
      staging_.download(base + input.offset, args.values[input.value], input.bytes);
    }
    for (const Place& output : outputs_)
      pointers_[static_cast<std::size_t>(output.value)] = base + output.offset;
    kernel_->run({pointers_.data(), base + scratch_at_});
    for (const Place& output : outputs_) {
      void* const to = args.out<void>(output.value);
      if (to != nullptr) staging_.upload(to, base + output.offset, output.bytes);
    }
  }

 private:
  static constexpr std::size_t alignment = 64;

  /// Where in the kernel's host memory a value is.
  struct Place {
    int value;
    std::size_t offset, bytes;
  };

  /// A node alone writes all of its results, whether anybody reads them or not.
  static const std::vector<int>& written(const plan::Graph& graph, const plan::Group& group) {
    return group.single() ? graph.node(group.nodes[0]).outputs : group.outputs;
  }

  std::vector<Place> places_of(const plan::Graph& graph, const std::vector<int>& values) {
    std::vector<Place> places;
    for (const int value : values) {
      const auto size = static_cast<std::size_t>(graph.value(value).bytes());
      places.push_back({.value = value, .offset = bytes_, .bytes = size});
      bytes_ += (size + alignment - 1) / alignment * alignment;
    }
    return places;
  }

  Staging& staging_;
  std::unique_ptr<Kernel> kernel_;
  std::size_t bytes_ = 0, scratch_at_ = 0;
  std::vector<Place> inputs_, outputs_;
  std::vector<std::byte> memory_;
  std::vector<void*> pointers_;
};

}  // namespace

std::unique_ptr<Kernel> make_host_kernel(const plan::Graph& graph, const plan::Group& group,
                                         Staging& staging) {
  return std::make_unique<HostKernel>(graph, group, staging);
}

}  // namespace fusetape::backends::cuda
