#include "backends/cuda/device/cudnn_convolution.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <tuple>
#include <utility>

#include "backends/cuda/device/convolution_graph.hpp"
#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

namespace fe = cudnn_frontend;

struct ConvolutionPlan {
  std::unique_ptr<fe::graph::Graph> graph;
  std::int64_t candidate = 0;  ///< of the graph's
  double milliseconds = 0;     ///< 0: not timed
  std::size_t workspace_bytes = 0;
  std::string name;
};

/// Building one takes up to half a second, where cuDNN compiles it.
constexpr int most_timed_candidates = 8;

/// The tensors of a spec in the order of their numbers, those that it has.
class Pointers {
 public:
  explicit Pointers(const OperationArgs& args) {
    const void *const out = args.out, *const sum = args.sum, *const square = args.square;
    for (const void* pointer : {args.a, args.b, args.bias, args.z, out, sum, square}) {
      if (pointer != nullptr) all_[static_cast<std::size_t>(count_++)] = const_cast<void*>(pointer);
    }
  }
  void** data() { return all_.data(); }
  int count() const { return count_; }

 private:
  std::array<void*, 7> all_ = {};
  int count_ = 0;
};

void execute(const ConvolutionPlan& plan, std::int64_t candidate, cudnnHandle_t handle,
             const OperationArgs& args) {
  Pointers pointers(args);
  check(plan.graph->execute_plan_at_index(handle, pointers.data(), pointers.count(), args.workspace,
                                          candidate));
}

// ---- timing

/// Device memory that a plan is timed on.
class TimingBuffers {
 public:
  TimingBuffers(const ConvolutionSpec& s, std::size_t workspace_bytes) {
    const std::int64_t images = s.n * s.h * s.w * s.c, results = s.n * s.oh * s.ow * s.k;
    const std::int64_t weights = s.k * s.r * s.s * (s.c / s.groups);
    using Pass = ConvolutionSpec::Pass;
    const bool forward = s.pass == Pass::forward, of_weights = s.pass == Pass::grad_weight;
    const std::int64_t out = forward ? results : of_weights ? weights : images;
    args.a = make(s.pass == Pass::grad_input ? results : images, s.dtype);
    args.b = make(of_weights ? results : weights, s.dtype);
    if (s.bias) args.bias = make(s.k, s.dtype);
    if (s.add) args.z = make(out, s.result);
    args.out = make(out, s.result);
    if (s.statistics) {
      args.sum = make(s.k, DType::f32);
      args.square = make(s.k, DType::f32);
    }
    if (workspace_bytes > 0) args.workspace = make(static_cast<std::int64_t>(workspace_bytes), DType::u8);
  }

  OperationArgs args;

 private:
  void* make(std::int64_t elements, DType dtype) {
    const std::size_t bytes = static_cast<std::size_t>(elements) * size_of(dtype);
    void* data = nullptr;
    check(cudaMalloc(&data, bytes), "memory to time a convolution on");
    memory_.emplace_back(data);
    check(cudaMemset(data, 0, bytes), "clearing memory");
    return data;
  }

  std::vector<std::unique_ptr<void, Destroy<cudaFree>>> memory_;
};

class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) {
    for (auto& event : events_) {
      cudaEvent_t made = nullptr;
      check(cudaEventCreate(&made), "making an event");
      event.reset(made);
    }
  }
  void start() { check(cudaEventRecord(events_[0].get(), stream_), "recording an event"); }
  double stop() {
    float milliseconds = 0;
    check(cudaEventRecord(events_[1].get(), stream_), "recording an event");
    check(cudaEventSynchronize(events_[1].get()), "timing a convolution");
    check(cudaEventElapsedTime(&milliseconds, events_[0].get(), events_[1].get()), "timing a convolution");
    return milliseconds;
  }

 private:
  cudaStream_t stream_;
  std::array<std::unique_ptr<CUevent_st, Destroy<cudaEventDestroy>>, 2> events_;
};

/// The best of some rounds; infinite where it fails.
double milliseconds_of(const ConvolutionPlan& plan, std::int64_t candidate, cudnnHandle_t handle,
                       const OperationArgs& args) {
  constexpr int rounds = 3, runs = 5;
  double best = std::numeric_limits<double>::infinity();
  try {
    Stopwatch watch(stream_of(handle));
    execute(plan, candidate, handle, args);  // loads its code
    for (int round = 0; round < rounds; ++round) {
      watch.start();
      for (int run = 0; run < runs; ++run) execute(plan, candidate, handle, args);
      best = std::min(best, watch.stop() / runs);
    }
  } catch (const Error&) {
    return std::numeric_limits<double>::infinity();
  }
  return best;
}

/// With nothing else on the device. Where there is no memory for it, cuDNN's first guess stays.
void take_fastest(ConvolutionPlan& plan, const std::vector<std::int64_t>& candidates,
                  const ConvolutionSpec& spec, cudnnHandle_t handle) try {
  std::int64_t workspace = 0;
  for (const std::int64_t candidate : candidates) {
    workspace = std::max(workspace, plan.graph->get_workspace_size_plan_at_index(candidate));
  }
  const TimingBuffers buffers(spec, static_cast<std::size_t>(workspace));
  check(cudaDeviceSynchronize(), "waiting for queued work");
  std::vector<std::pair<double, std::int64_t>> times;
  for (const std::int64_t candidate : candidates) {
    times.emplace_back(milliseconds_of(plan, candidate, handle, buffers.args), candidate);
  }
  std::tie(plan.milliseconds, plan.candidate) = *std::min_element(times.begin(), times.end());
} catch (const Error&) {
}

ConvolutionPlan build(const ConvolutionSpec& spec, cudnnHandle_t handle) {
  ConvolutionPlan plan{.graph = graph_of(spec)};
  fe::graph::Graph& graph = *plan.graph;
  const auto candidates = build_candidates(graph, spec, handle, spec.timed ? most_timed_candidates : 1);
  plan.candidate = candidates.front();
  if (spec.timed) take_fastest(plan, candidates, spec, handle);
  plan.workspace_bytes = static_cast<std::size_t>(graph.get_workspace_size_plan_at_index(plan.candidate));
  check(graph.get_plan_name_at_index(plan.candidate, plan.name));
  if (spec.timed && plan.milliseconds == 0) plan.name += ", not timed for want of memory";
  return plan;
}

class CudnnConvolution final : public QueuedOperation {
 public:
  CudnnConvolution(cudnnHandle_t handle, ConvolutionPlan plan) : handle_(handle), plan_(std::move(plan)) {
    name = "cudnn:" + plan_.name;
    seconds = plan_.milliseconds * 1e-3;
    need_workspace(plan_.workspace_bytes);
  }

  void queue(cudaStream_t stream, const OperationArgs& args) override {
    OperationArgs queued = args;
    queued.workspace = aligned(args.workspace);
    // Within a capture nothing is called that need not be.
    if (stream != stream_of(handle_)) check(cudnnSetStream(handle_, stream), "choosing a stream");
    execute(plan_, plan_.candidate, handle_, queued);
  }

 private:
  cudnnHandle_t handle_;
  ConvolutionPlan plan_;
};

}  // namespace

ConvolutionLibrary::ConvolutionLibrary(cudaStream_t stream) : handle_(make_cudnn_handle(stream)) {}

std::unique_ptr<QueuedOperation> ConvolutionLibrary::make(const ConvolutionSpec& spec) try {
  return std::make_unique<CudnnConvolution>(handle_.get(), build(spec, handle_.get()));
} catch (const fe::cudnnException& error) {
  fail(error);
}

}  // namespace fusetape::backends::cuda
