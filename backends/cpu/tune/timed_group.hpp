#pragma once
#include <optional>

#include "backends/cpu/tune/timed.hpp"

/// What the tuner times for a convolution that carries parts of norms: the group as one kernel, and its parts
/// as kernels of their own.
namespace fusetape::backends::cpu::tune {

/// What a TunedKernel says of such a group.
inline constexpr const char* carried = "carried";
inline constexpr const char* apart = "apart";

class TimedGroup final : public Timed {
 public:
  /// Whether the norms that ride along have to make up for a convolution that another kernel computes faster:
  /// by what was timed, or because products of bf16 are the CPU's own, and ours are not.
  static bool is_in_question(const plan::Graph& graph, const plan::Group& group);
  /// nullopt: no convolution by rows or in question that carries anything, or too little work to time.
  static std::optional<TimedGroup> of(const plan::Graph& graph, const plan::Group& group);

  const std::string& key() const override { return key_; }
  double flops() const override { return flops_; }
  std::int64_t images() const override { return images_; }
  const plan::Graph& graph() const override { return graph_; }

  std::vector<Contender> algorithms() override {
    return {{{.kernel = carried}, carried}, {{.kernel = apart}, apart}};
  }
  std::vector<Contender> variants(const Contender&) override { return {}; }
  bool offers(const plan::TunedKernel& kernel) override {
    return kernel.kernel == carried || kernel.kernel == apart;
  }
  std::unique_ptr<Kernel> make(const plan::TunedKernel& kernel, Backend& backend) override;

 private:
  TimedGroup() = default;

  plan::Graph graph_;     ///< of kernels of their own; what the other makes again is an input here
  plan::Graph together_;  ///< of one kernel
  std::string key_;
  double flops_ = 0;  ///< of the convolution, on so many images
  std::int64_t images_ = 0;
};

}  // namespace fusetape::backends::cpu::tune
