#pragma once
#include <optional>
#include <string>
#include <vector>

#include "backends/backend.hpp"

/// What the tuner times for a convolution or a gradient of one: the same by itself, on few images.
namespace fusetape::backends::cpu::tune {

/// A kernel that competes, and what explain() calls it.
struct Contender {
  plan::TunedKernel kernel;
  std::string label;  ///< "Winograd", "direct"
};

class TimedConvolution {
 public:
  /// nullopt: no convolution, too little work to time or too much, or not in f32 or bf16.
  static std::optional<TimedConvolution> of(const plan::Graph& graph, const plan::GraphNode& conv);

  /// Pass, shapes, dtypes, stride, padding, threads, forced algorithm: all that decides what is fast on one
  /// CPU. Batches beyond images() share the key.
  const std::string& key() const { return key_; }
  double flops() const { return flops_; }
  std::int64_t images() const { return images_; }
  const plan::Graph& graph() const { return graph_; }
  const plan::Group& group() const { return group_; }

  /// The built-in choice, then the best by shape of another algorithm, where there is one; each says what it
  /// is, for the built-in choice may be another in a larger batch. (A Winograd without a blocking takes the
  /// built-in one for its batch.) Throws where no kernel but the reference can.
  std::vector<Contender> algorithms();
  /// The winner's other blockings, or oneDNN's other implementations.
  std::vector<Contender> variants(const Contender& winner);
  /// Whether a plan could obey it on this CPU.
  bool offers(const plan::TunedKernel& kernel);
  /// The kernel as a plan would make it.
  std::unique_ptr<Kernel> make(const plan::TunedKernel& kernel, Backend& backend);

 private:
  TimedConvolution() = default;
  plan::GraphNode& node() { return graph_.nodes[0]; }

  plan::Graph graph_;
  plan::Group group_;
  std::string key_;
  double flops_ = 0;  ///< on so many images
  std::int64_t images_ = 0;
};

}  // namespace fusetape::backends::cpu::tune
