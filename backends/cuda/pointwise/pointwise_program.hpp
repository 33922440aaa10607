#pragma once
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/device_api.hpp"
#include "backends/pointwise_groups.hpp"

/// A group of pointwise nodes as one generated kernel, of which each element is computed by itself. Each
/// node's result is rounded to its dtype, so a chain gives the bits of its nodes run one by one.
namespace fusetape::backends::cuda::pointwise {

struct PointwiseProgram {
  static constexpr unsigned threads = 256;  ///< of a block

  /// A value that is read. One of f64 is a scalar: an op's number.
  struct Input {
    enum class Kind : std::uint8_t {
      packed,     ///< of the group's shape
      scalar,     ///< one element
      broadcast,  ///< by `view`
    };
    int value = -1;
    DType dtype = DType::f32;
    Kind kind = Kind::packed;
    BroadcastView view;
  };
  /// A node.
  struct Step {
    const core::OpDef* op = nullptr;
    core::Attrs attrs;
    DType dtype = DType::f32;
    std::vector<int> operands;  ///< inputs, then steps, are counted on
  };
  struct Output {
    int value = -1;
    int step = -1;
  };

  /// The sum or mean at a chain's end, over the middle one of three axes. Each thread adds up a part of a sum
  /// (of `width` sums beside each other), every `parts`-th row of it; the kernel's last result is these parts
  /// in f32, {parts, results}. The chain's count is not read.
  struct Sum {
    int value = -1, operand = -1;  ///< what is summed, as operands are counted
    std::int64_t outer = 1, rows = 1, inner = 1;
    std::int64_t parts = 1;
    double divisor = 1;
    /// Neighbours that a thread takes belong to one sum, and count as one row.
    bool along_rows() const { return inner == 1; }
    std::int64_t results() const { return outer * inner; }
  };

  std::string name;        ///< of the kernel
  std::int64_t count = 0;  ///< elements
  int width = 1;           ///< elements that a thread takes at a time
  std::vector<Input> inputs;
  std::vector<Step> steps;
  std::vector<Output> outputs;
  std::optional<Sum> sum;
  std::vector<std::pair<int, int>> in_place;

  /// Threads side by side, each on its own sums.
  std::int64_t sum_columns() const { return sum->along_rows() ? 1 : sum->inner / width; }
  std::int64_t sum_threads() const { return sum->outer * sum->parts * sum_columns(); }
  const Step& step(int i) const { return steps[static_cast<std::size_t>(i)]; }
  std::size_t args_bytes() const { return (inputs.size() + results() + 1) * 8; }
  std::size_t results() const { return outputs.size() + (sum ? 1 : 0); }
};

/// Why these nodes are no program; empty: they are.
std::string pointwise_refusal(const plan::Graph& graph, const plan::Group& group);
/// The same of the sum or mean at its end.
std::string sum_refusal(const plan::Graph& graph, const plan::Group& group);
PointwiseProgram make_pointwise_program(const plan::Graph& graph, const plan::Group& group);

/// The kernel takes one argument: the addresses of the inputs, those of the outputs and of a sum's parts, and
/// how many elements there are, of 8 bytes each. Its threads go through the elements in strides of the whole
/// grid, or each through its part of a sum.
std::string pointwise_text(const PointwiseProgram& program);
/// What a block of it does, on the host: each node by its op's meaning (OpDef::pointwise).
HostBlock pointwise_on_host(std::shared_ptr<const PointwiseProgram> program);

}  // namespace fusetape::backends::cuda::pointwise
