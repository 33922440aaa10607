// The device itself against plain loops. Skipped where there is none.
#include <cuda_runtime_api.h>
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "backends/cuda/device/cuda_device.hpp"
#include "core/numerics/reference.hpp"
#include "cuda/library_double.hpp"
#include "fusetape/error.hpp"

using namespace fusetape::backends::cuda;
using fusetape::DType;
using fusetape::tests::LibraryDouble;

namespace {

/// Null, and the test is over, where there is none.
CudaDevice* device_or_skip() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    MESSAGE("skipped: no CUDA device");
    return nullptr;
  }
  static CudaDevice device;
  return &device;
}

/// Host memory and its copy on the device.
class Buffer {
 public:
  Buffer(CudaDevice& device, std::size_t bytes)
      : device_(device),
        bytes_(bytes),
        host_(device.allocate_pinned(bytes)),
        device_data_(device.allocate(bytes)) {}
  ~Buffer() { device_.free(device_data_), device_.free_pinned(host_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void upload() { device_.upload(Stream::compute, device_data_, host_, bytes_); }
  void download() {
    device_.download(Stream::compute, host_, device_data_, bytes_);
    device_.synchronize();
  }
  template <class T>
  T* host() {
    return static_cast<T*>(host_);
  }
  void* data() { return device_data_; }

 private:
  CudaDevice& device_;
  std::size_t bytes_;
  void *host_, *device_data_;
};

/// An operand or result of a library, of numbers from -1 to 1: with more bits than TF32 has.
class Operand {
 public:
  Operand(CudaDevice& device, DType dtype, std::int64_t count, unsigned seed, bool nan_first = false,
          double scale = 1)
      : dtype_(dtype), count_(count), buffer_(device, static_cast<std::size_t>(count) * size_of(dtype)) {
    std::vector<double> values(static_cast<std::size_t>(count));
    for (double& value : values) {
      seed = seed * 1664525u + 1013904223u;
      value = scale * (static_cast<double>(seed >> 8) * 0x1p-23 - 1);
    }
    if (nan_first) values.front() = std::nan("");
    fusetape::core::from_doubles(values.data(), dtype, count, buffer_.host<void>());
    host_copy_.assign(buffer_.host<std::byte>(),
                      buffer_.host<std::byte>() + count * static_cast<std::int64_t>(size_of(dtype)));
    buffer_.upload();
  }
  const void* on_host() const { return host_copy_.data(); }
  void* on_device() { return buffer_.data(); }
  void* host_result() { return host_copy_.data(); }

  /// Of the device's values to the host's; infinite where only one of them is a NaN.
  double greatest_difference() {
    buffer_.download();
    std::vector<double> device(static_cast<std::size_t>(count_)), host(device.size());
    fusetape::core::to_doubles(buffer_.host<void>(), dtype_, count_, device.data());
    fusetape::core::to_doubles(host_copy_.data(), dtype_, count_, host.data());
    double greatest = 0;
    for (std::size_t i = 0; i < host.size(); ++i) {
      if (std::isnan(host[i]) != std::isnan(device[i])) return std::numeric_limits<double>::infinity();
      if (std::isnan(host[i])) continue;
      const double scale = std::max(1.0, std::abs(host[i]));
      greatest = std::max(greatest, std::abs(device[i] - host[i]) / scale);
    }
    return greatest;
  }

 private:
  DType dtype_;
  std::int64_t count_;
  Buffer buffer_;
  std::vector<std::byte> host_copy_;
};

double tolerance_of(DType dtype) {
  return dtype == DType::bf16 ? 0.01 : dtype == DType::f16 ? 0.002 : dtype == DType::f32 ? 2e-5 : 1e-12;
}

/// Runs the operation on the device and its double on the host; both read and write the same operands.
double difference(CudaDevice& device, LibraryOperation& operation, LibraryDouble& twin, Operand& a,
                  Operand& b, Operand* bias, Operand* z, Operand& out) {
  Buffer workspace(device, operation.workspace_bytes());
  device.run(Stream::compute, operation,
             {.a = a.on_device(),
              .b = b.on_device(),
              .bias = bias != nullptr ? bias->on_device() : nullptr,
              .z = z != nullptr ? z->on_device() : nullptr,
              .out = out.on_device(),
              .workspace = workspace.data()},
             {});
  twin.run({.a = a.on_host(),
            .b = b.on_host(),
            .bias = bias != nullptr ? bias->on_host() : nullptr,
            .z = z != nullptr ? z->on_host() : nullptr,
            .out = out.host_result()});
  return out.greatest_difference();
}

const std::string increment = R"(
struct Args { float* x; long long count; };
extern "C" __global__ void increment(const Args args) {
  const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < args.count) args.x[i] += 1;
}
)";
struct IncrementArgs {
  float* x;
  std::int64_t count;
};

}  // namespace

TEST_CASE("Memory of the device is copied, cleared, and refused with what is free") {
  CudaDevice* device = device_or_skip();
  if (device == nullptr) return;
  Buffer a(*device, 4096), b(*device, 4096);
  std::iota(a.host<float>(), a.host<float>() + 1024, 0.f);
  a.upload();
  device->copy(Stream::compute, b.data(), a.data(), 4096);
  device->clear(Stream::compute, b.data(), 4);
  b.download();
  CHECK(b.host<float>()[0] == 0);
  CHECK(b.host<float>()[1023] == 1023);
  CHECK_THROWS_WITH_AS(device->allocate(std::size_t{1} << 50), doctest::Contains("free on the device: "),
                       fusetape::Error);
  CHECK(device->facts().multiprocessors > 0);
}

TEST_CASE("A program runs, and runs again from a captured graph") {
  CudaDevice* device = device_or_skip();
  if (device == nullptr) return;
  const ProgramSource source{
      .name = "increment", .text = increment, .args_bytes = sizeof(IncrementArgs), .run_block = {}};
  auto kernel = device->make_program(source);
  device->make_program(source).reset();  // unloads that one alone

  Buffer x(*device, 4 * 1000);
  std::fill_n(x.host<float>(), 1000, 0.f);
  x.upload();
  const IncrementArgs args{static_cast<float*>(x.data()), 1000};
  const Launch launch{.kernel = kernel.get(), .grid = {.x = 4}, .args = &args};
  device->launch(Stream::compute, launch, {});
  device->begin_capture(Stream::compute);
  device->launch(Stream::compute, launch, {});
  device->launch(Stream::compute, launch, {});
  const GraphId graph = device->end_capture(Stream::compute);
  for (int run = 0; run < 3; ++run) device->launch_graph(Stream::compute, graph);
  x.download();
  CHECK(x.host<float>()[0] == 7);
  CHECK(x.host<float>()[999] == 7);
  device->free_graph(graph);
  CHECK_THROWS_WITH_AS(
      device->launch(Stream::compute, {.kernel = kernel.get(), .grid = {.x = 1, .y = 65536}, .args = &args},
                     {}),
      doctest::Contains("got 1 x 65536"), fusetape::Error);

  kernel.reset();
  kernel = device->make_program(source);
  device->launch(Stream::compute, {.kernel = kernel.get(), .grid = {.x = 4}, .args = &args}, {});
  x.download();
  CHECK(x.host<float>()[999] == 8);
}

TEST_CASE("Work waits for an event of the other stream") {
  CudaDevice* device = device_or_skip();
  if (device == nullptr) return;
  Buffer x(*device, 64 << 20);
  std::fill_n(x.host<float>(), 16 << 20, 1.f);
  const Event uploaded = device->make_event();
  device->upload(Stream::copies, x.data(), x.host<void>(), 64 << 20);
  device->record(uploaded, Stream::copies);
  device->wait(Stream::compute, uploaded);
  Buffer last(*device, 4);
  device->copy(Stream::compute, last.data(), static_cast<float*>(x.data()) + (16 << 20) - 1, 4);
  last.download();
  CHECK(last.host<float>()[0] == 1);
  device->synchronize(uploaded);
}

TEST_CASE("Matrix products of cuBLASLt agree with plain loops") {
  CudaDevice* device = device_or_skip();
  if (device == nullptr) return;
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::f16}) {
    for (int variant = 0; variant < 8; ++variant) {
      const bool bias = dtype != DType::f64 && variant >= 4;
      const ProductSpec spec{
          .dtype = dtype,
          .result = dtype,
          .batch = variant == 2 ? 3 : 1,
          .m = 24,
          .n = 40,
          .k = 17 + 7 * (variant % 2),
          .stride_a = 24 * (17 + 7 * (variant % 2)),
          .stride_b = 0,
          .transpose_a = (variant & 1) != 0,
          .transpose_b = (variant & 2) != 0,
          .bias = bias,
          .activation = bias && variant == 7 ? ProductSpec::Activation::relu : ProductSpec::Activation::none};
      CAPTURE(name_of(dtype));
      CAPTURE(variant);
      const bool relu = spec.activation == ProductSpec::Activation::relu;  // keeps a NaN
      Operand a(*device, dtype, spec.batch * spec.m * spec.k, 1, relu), b(*device, dtype, spec.k * spec.n, 2);
      Operand c(*device, dtype, spec.n, 3), out(*device, dtype, spec.batch * spec.m * spec.n, 4);
      const auto operation = device->make_product(spec);
      const auto twin = fusetape::tests::make_product_double(spec);
      CHECK(difference(*device, *operation, *twin, a, b, bias ? &c : nullptr, nullptr, out) <
            tolerance_of(dtype));
    }
  }
}

TEST_CASE("Convolutions of cuDNN agree with plain loops, or say why there are none") {
  CudaDevice* device = device_or_skip();
  if (device == nullptr) return;
  using Pass = ConvolutionSpec::Pass;
  int refused = 0, run = 0;
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const Pass pass : {Pass::forward, Pass::grad_input, Pass::grad_weight}) {
      for (const bool epilogue : {false, true}) {
        if (epilogue && pass == Pass::grad_weight) continue;
        const ConvolutionSpec spec{.pass = pass,
                                   .dtype = dtype,
                                   .result = pass == Pass::grad_weight ? DType::f32 : dtype,
                                   .n = 2,
                                   .h = 9,
                                   .w = 7,
                                   .c = 16,
                                   .k = 24,
                                   .r = 3,
                                   .s = 3,
                                   .oh = 5,
                                   .ow = 4,
                                   .stride_h = 2,
                                   .stride_w = 2,
                                   .pad_h = 1,
                                   .pad_w = 1,
                                   .bias = epilogue && pass == Pass::forward,
                                   .add = epilogue,
                                   .relu = epilogue && pass == Pass::forward};
        CAPTURE(name_of(dtype));
        CAPTURE(static_cast<int>(pass));
        CAPTURE(epilogue);
        const std::int64_t images = 2 * 9 * 7 * 16, results = 2 * 5 * 4 * 24, weights = 24 * 9 * 16;
        const bool forward = pass == Pass::forward;
        const std::int64_t written = forward ? results : pass == Pass::grad_input ? images : weights;
        Operand a(*device, dtype, pass == Pass::grad_input ? results : images, 1,
                  spec.relu);  // which keeps a NaN
        Operand b(*device, dtype, pass == Pass::grad_weight ? results : weights, 2);
        Operand bias(*device, dtype, 24, 3), z(*device, spec.result, written, 4),
            out(*device, spec.result, written, 5);
        const auto twin = fusetape::tests::make_convolution_double(spec);
        try {
          const auto operation = device->make_convolution(spec);
          ++run;
          CHECK(difference(*device, *operation, *twin, a, b, spec.bias ? &bias : nullptr,
                           spec.add ? &z : nullptr,
                           out) < tolerance_of(spec.result) * (dtype == spec.result ? 1 : 10));
        } catch (const fusetape::Error& error) {
          ++refused;
          MESSAGE(error.what());
        }
      }
    }
  }
  CHECK(run >= 9);  // without an epilogue there is always a kernel
  MESSAGE(run << " run, " << refused << " refused");
}

TEST_CASE(
    "cuDNN's statistics of a convolution agree with plain loops, in f16, or it says why there are none") {
  CudaDevice* device = device_or_skip();
  if (device == nullptr) return;
  // So many rows, and a y of some hundreds, that sums in f16 would be infinite.
  const ConvolutionSpec spec{.dtype = DType::f16,
                             .result = DType::f16,
                             .n = 128,
                             .h = 32,
                             .w = 32,
                             .c = 16,
                             .k = 16,
                             .r = 3,
                             .s = 3,
                             .oh = 32,
                             .ow = 32,
                             .pad_h = 1,
                             .pad_w = 1,
                             .statistics = true};
  const std::int64_t images = 128 * 32 * 32 * 16;
  Operand x(*device, DType::f16, images, 1, false, 8), w(*device, DType::f16, 16 * 9 * 16, 2, false, 8),
      y(*device, DType::f16, images, 3), sum(*device, DType::f32, 16, 4), square(*device, DType::f32, 16, 5);
  std::unique_ptr<LibraryOperation> operation;
  try {
    operation = device->make_convolution(spec);
  } catch (const fusetape::Error& error) {
    MESSAGE("refused: " << error.what());
    return;
  }
  Buffer workspace(*device, operation->workspace_bytes() + 1);
  for (int run = 0; run < 2; ++run) {  // nothing may be left from the run before
    device->run(Stream::compute, *operation,
                OperationArgs{.a = x.on_device(),
                              .b = w.on_device(),
                              .out = y.on_device(),
                              .sum = sum.on_device(),
                              .square = square.on_device(),
                              .workspace = workspace.data()},
                {});
  }
  fusetape::tests::make_convolution_double(spec)->run({.a = x.on_host(),
                                                       .b = w.on_host(),
                                                       .out = y.host_result(),
                                                       .sum = sum.host_result(),
                                                       .square = square.host_result()});
  CHECK(y.greatest_difference() < tolerance_of(DType::f16));
  CHECK(sum.greatest_difference() < 0.05);  // its terms nearly cancel
  CHECK(square.greatest_difference() < 0.01);
}
