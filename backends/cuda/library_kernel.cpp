#include "backends/cuda/library_kernel.hpp"

#include "backends/cuda/device_kernel.hpp"

namespace fusetape::backends::cuda {
namespace {

class LibraryKernel final : public DeviceKernel {
 public:
  LibraryKernel(const plan::Graph& graph, DeviceApi& device, std::shared_ptr<LibraryOperation> operation,
                const OperationRoles& roles)
      : DeviceKernel(graph, device), operation_(std::move(operation)), roles_(roles) {
    name = operation_->name;
  }

  std::size_t scratch_bytes() const override { return operation_->workspace_bytes(); }

  void run(const KernelArgs& args) override {
    const auto at = [&](int value) { return value < 0 ? nullptr : args.values[value]; };
    const OperationArgs operands{.a = at(roles_.a),
                                 .b = at(roles_.b),
                                 .bias = at(roles_.bias),
                                 .z = at(roles_.z),
                                 .out = at(roles_.out),
                                 .workspace = args.scratch};
    Access access{.reads = {}, .writes = {whole(args, roles_.out), {args.scratch, scratch_bytes()}}};
    for (const int value : {roles_.a, roles_.b, roles_.bias, roles_.z}) {
      if (value >= 0) access.reads.push_back(whole(args, value));
    }
    device().run(Stream::compute, *operation_, operands, access);
  }

 private:
  std::shared_ptr<LibraryOperation> operation_;
  OperationRoles roles_;
};

class EmptySum final : public DeviceKernel {
 public:
  EmptySum(const plan::Graph& graph, DeviceApi& device, int out) : DeviceKernel(graph, device), out_(out) {
    name = "cuda:clear";
  }

  void run(const KernelArgs& args) override {
    const Range zeros = whole(args, out_);
    if (zeros.bytes > 0) device().clear(Stream::compute, args.values[out_], zeros.bytes);
  }

 private:
  int out_;
};

}  // namespace

std::unique_ptr<Kernel> make_library_kernel(const plan::Graph& graph, Device& device,
                                            std::shared_ptr<LibraryOperation> operation,
                                            const OperationRoles& roles) {
  return std::make_unique<LibraryKernel>(graph, device.api, std::move(operation), roles);
}

std::unique_ptr<Kernel> make_empty_sum(const plan::Graph& graph, Device& device, int out) {
  return std::make_unique<EmptySum>(graph, device.api, out);
}

}  // namespace fusetape::backends::cuda
