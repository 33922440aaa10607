#pragma once
#include <string>
#include <vector>

#include "backends/backend.hpp"

namespace fusetape::backends::cpu::tune {

/// A kernel that competes, and what explain() calls it.
struct Contender {
  plan::TunedKernel kernel;
  std::string label;  ///< "Winograd", "direct"
};

/// A piece of work that has several kernels, by itself and on few images.
class Timed {
 public:
  virtual ~Timed() = default;

  /// All that decides what is fast on one CPU. Batches beyond images() share the key.
  virtual const std::string& key() const = 0;
  virtual double flops() const = 0;
  virtual std::int64_t images() const = 0;
  /// Its values are those that kernels read and write.
  virtual const plan::Graph& graph() const = 0;

  /// The built-in choice first. Throws where no kernel but the reference can.
  virtual std::vector<Contender> algorithms() = 0;
  /// The winner's variants.
  virtual std::vector<Contender> variants(const Contender& winner) = 0;
  /// Whether a plan could obey it on this CPU.
  virtual bool offers(const plan::TunedKernel& kernel) = 0;
  /// The kernel as a plan would make it, or what is as much work.
  virtual std::unique_ptr<Kernel> make(const plan::TunedKernel& kernel, Backend& backend) = 0;
};

}  // namespace fusetape::backends::cpu::tune
