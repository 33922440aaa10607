#include "backends/cuda/graph_replay.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace fusetape::backends::cuda {
namespace {

class GraphReplay final : public Replay {
 public:
  GraphReplay(std::span<Kernel* const> kernels, std::size_t values, DeviceApi& device)
      : device_(device),
        values_(values),
        as_graph_("one graph of " + std::to_string(kernels.size()) + " kernels") {
    const auto waiting = std::find_if(kernels.begin(), kernels.end(), [](Kernel* k) { return k->waits(); });
    if (waiting != kernels.end()) never_ = "one by one: " + (*waiting)->name + " waits for the device";
  }

  ~GraphReplay() override {
    for (const Recording& recording : recordings_) forget(recording);
  }
  GraphReplay(const GraphReplay&) = delete;
  GraphReplay& operator=(const GraphReplay&) = delete;

  void run(const KernelArgs& args, const std::function<void()>& each) override {
    if (!never_.empty()) {
      how_ = &never_;
      return each();
    }
    Recording* recording = find(args);
    if (recording == nullptr) {
      remember(args);
      how_ = &first_time_;
      return each();
    }
    if (recording->graph == none && !try_capture(*recording, each)) {
      how_ = never_.empty() ? &no_memory_ : &never_;
      return each();
    }
    device_.launch_graph(Stream::compute, recording->graph);
    how_ = &as_graph_;
  }

  const std::string& how() const override { return *how_; }

 private:
  static constexpr GraphId none = -1;

  /// A run's pointers, and the graph that has them.
  struct Recording {
    std::vector<void*> pointers;
    GraphId graph = none;
  };

  Recording* find(const KernelArgs& args) {
    for (Recording& recording : recordings_) {
      const auto& pointers = recording.pointers;
      if (!pointers.empty() && pointers.back() == args.scratch &&
          std::equal(pointers.begin(), pointers.end() - 1, args.values)) {
        return &recording;
      }
    }
    return nullptr;
  }

  /// In the place of the oldest.
  void remember(const KernelArgs& args) {
    Recording& recording = recordings_[next_++ % recordings_.size()];
    forget(recording);
    recording = {};
    recording.pointers.assign(args.values, args.values + values_);
    recording.pointers.push_back(args.scratch);
  }

  void forget(const Recording& recording) {
    if (recording.graph != none) device_.free_graph(recording.graph);
  }

  /// Nothing runs in a capture: where it fails, the kernels can still be run one by one, from now on always;
  /// or this time, where only memory was short.
  bool try_capture(Recording& recording, const std::function<void()>& each) {
    try {
      device_.begin_capture(Stream::compute);
      each();
      recording.graph = device_.end_capture(Stream::compute);
    } catch (const OutOfMemory&) {
      abandon_capture();
    } catch (const Error& error) {
      never_ = "one by one: the capture failed: " + error.message();
      abandon_capture();
    }
    return recording.graph != none;
  }

  void abandon_capture() {
    try {
      device_.free_graph(device_.end_capture(Stream::compute));
    } catch (const Error&) {  // the device has ended it
    }
  }

  DeviceApi& device_;
  std::size_t values_;
  std::string never_;  ///< why there can be no graph; empty: there can
  const std::string as_graph_, first_time_ = "one by one: for the first time with these buffers",
                               no_memory_ = "one by one: no memory for a graph";
  const std::string* how_ = &never_;
  std::array<Recording, 4> recordings_;
  std::size_t next_ = 0;
};

}  // namespace

std::unique_ptr<Replay> make_graph_replay(std::span<Kernel* const> kernels, std::size_t values,
                                          DeviceApi& device) {
  return std::make_unique<GraphReplay>(kernels, values, device);
}

}  // namespace fusetape::backends::cuda
