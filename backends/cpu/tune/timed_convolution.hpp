#pragma once
#include <optional>

#include "backends/cpu/tune/timed.hpp"

/// What the tuner times for a convolution or a gradient of one: the same by itself, on few images.
namespace fusetape::backends::cpu::tune {

constexpr std::int64_t most_images = 32;
constexpr double least_flops = 1e6;  ///< 10 µs: no choice is worth the time to make it

/// Of an image of the convolution, or of one of its gradients.
double flops_of_image(const plan::Graph& graph, const plan::GraphNode& conv);
/// Stride, padding, dilation, groups and threads, for a key.
std::string setting_of(const plan::GraphNode& conv);

class TimedConvolution final : public Timed {
 public:
  /// nullopt: no convolution, too little work to time or too much, or not in f32 or bf16.
  static std::optional<TimedConvolution> of(const plan::Graph& graph, const plan::GraphNode& conv);

  /// Pass, shapes, dtypes, stride, padding, threads, forced algorithm.
  const std::string& key() const override { return key_; }
  double flops() const override { return flops_; }
  std::int64_t images() const override { return images_; }
  const plan::Graph& graph() const override { return graph_; }

  /// The built-in choice, then the best by shape of another algorithm, where there is one; each says what it
  /// is, for the built-in choice may be another in a larger batch. (A Winograd without a blocking takes the
  /// built-in one for its batch.) Throws where no kernel but the reference can.
  std::vector<Contender> algorithms() override;
  /// The winner's other blockings, or oneDNN's other implementations.
  std::vector<Contender> variants(const Contender& winner) override;
  bool offers(const plan::TunedKernel& kernel) override;
  std::unique_ptr<Kernel> make(const plan::TunedKernel& kernel, Backend& backend) override;

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
