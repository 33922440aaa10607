// What a training step costs the host on a device, once its plan is known and captured: no allocation.
#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "backends/cuda/cuda_backend.hpp"
#include "core/backends.hpp"
#include "core/tape/tape.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using namespace fusetape::backends::cuda;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

namespace {

thread_local long allocations = 0;

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* data = std::malloc(bytes != 0 ? bytes : 1)) return data;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, std::size_t) noexcept { std::free(data); }

namespace {

class QuietOperation final : public LibraryOperation {
 public:
  QuietOperation() { name = "quiet"; }
  std::size_t workspace_bytes() const override { return 0; }
};

/// A device that has memory, does nothing with it, and allocates nothing for what it is asked to do.
class QuietDevice final : public DeviceApi {
 public:
  DeviceFacts facts() const override {
    return {.name = "quiet", .flops = 5e13, .half_flops = 8e14, .bytes_per_second = 3e12};
  }
  void* allocate(std::size_t bytes) override {
    const std::size_t size = (bytes + 256) / 256 * 256;
    return std::memset(std::aligned_alloc(256, size), 0, size);
  }
  void free(void* data) override { std::free(data); }
  void* allocate_pinned(std::size_t bytes) override { return allocate(bytes); }
  void free_pinned(void* data) override { std::free(data); }

  void upload(Stream, void*, const void*, std::size_t) override {}
  void download(Stream, void*, const void*, std::size_t) override {}
  void copy(Stream, void*, const void*, std::size_t) override {}
  void clear(Stream, void*, std::size_t) override {}
  void launch(Stream, const Launch&, const Access&) override {}
  void run(Stream, LibraryOperation&, const OperationArgs&, const Access&) override {}

  Event make_event() override { return 0; }
  void record(Event, Stream) override {}
  void wait(Stream, Event) override {}
  void synchronize(Event) override {}
  void synchronize() override {}

  void begin_capture(Stream) override {}
  GraphId end_capture(Stream) override { return 0; }
  void launch_graph(Stream, GraphId) override {}
  void free_graph(GraphId) override {}

  std::unique_ptr<LibraryOperation> make_convolution(const ConvolutionSpec&) override {
    return std::make_unique<QuietOperation>();
  }
  std::unique_ptr<LibraryOperation> make_product(const ProductSpec&) override {
    return std::make_unique<QuietOperation>();
  }
  std::shared_ptr<const KernelEntry> make_program(const ProgramSource& source) override {
    return std::make_shared<const KernelEntry>(KernelEntry{.name = source.name, .run_block = {}});
  }
};

}  // namespace

TEST_CASE("a step that is replayed on a device allocates nothing") {
  ft::core::add_backend(ft::backends::make_device_backend(std::make_shared<QuietDevice>(), "quiet device"));
  const OnBackend on_device("quiet device");
  ft::nn::ResNet model = ft::nn::resnet_cifar({.depth = 8, .width = 8});
  ft::optim::SGD sgd(model.parameters(), {.lr = 0.05, .momentum = 0.9, .weight_decay = 5e-4});
  const ft::Tensor images = ft::zeros({4, 8, 8, 3}), labels = ft::zeros({4}, ft::DType::i64);
  int replayed = 0;
  for (int step = 0; step < 20; ++step) {
    {
      const ft::Tensor loss = ft::cross_entropy(model(images), labels);
      sgd.zero_grad();
      loss.backward();
    }
    sgd.set_learning_rate(0.05 / (1 + step));
    const long before = allocations;
    sgd.step();
    const long after = allocations;
    if (!contains(ft::explain().replay, "one graph of ") || ++replayed == 1) continue;  // the first captures
    CHECK_MESSAGE(after == before, "allocations in step " << step << ": " << (after - before));
  }
  CHECK(replayed > 10);
}

#endif
