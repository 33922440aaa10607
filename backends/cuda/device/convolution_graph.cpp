#include "backends/cuda/device/convolution_graph.hpp"

#include <vector>

#include "backends/cuda/device/errors.hpp"
#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

namespace fe = cudnn_frontend;
using Graph = fe::graph::Graph;
using Attributes = fe::graph::Tensor_attributes;
using Tensor = std::shared_ptr<Attributes>;
using Pass = ConvolutionSpec::Pass;

constexpr std::int64_t most_workspace_bytes = std::int64_t{1} << 30;

enum Uid : std::int64_t { uid_a = 1, uid_b, uid_bias, uid_z, uid_out, uid_sum, uid_square };

fe::DataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return fe::DataType_t::FLOAT;
    case DType::f64:
      return fe::DataType_t::DOUBLE;
    case DType::bf16:
      return fe::DataType_t::BFLOAT16;
    case DType::f16:
      return fe::DataType_t::HALF;
    default:
      throw Error("cudnn", "expected a floating dtype, got " + std::string(name_of(dtype)));
  }
}

/// Four extents in cuDNN's order, which has the channels second; in memory they are last.
struct Extents {
  std::int64_t n, c, h, w;
};

Attributes& describe(Attributes& tensor, Uid uid, DType dtype, Extents e) {
  return tensor.set_uid(uid)
      .set_data_type(type_of(dtype))
      .set_dim({e.n, e.c, e.h, e.w})
      .set_stride({e.h * e.w * e.c, 1, e.w * e.c, e.c});
}

/// What an engine may not do: give other bits in another run, round more than the operands' dtype does, or
/// carry a NaN into results that do not read it.
std::vector<fe::NumericalNote_t> unwanted(const ConvolutionSpec& spec) {
  using Note = fe::NumericalNote_t;
  std::vector<Note> notes = {Note::NONDETERMINISTIC,    Note::REDUCED_PRECISION_REDUCTION,
                             Note::DOWN_CONVERT_INPUTS, Note::FFT,
                             Note::WINOGRAD_TILE_6x6,   Note::WINOGRAD_TILE_13x13};
  if (spec.dtype == DType::f32 && !spec.tf32) notes.push_back(Note::TENSOR_CORE);
  return notes;
}

/// The frontend keeps the library's status only within its message: a cudnnStatus_t by its name, a
/// cudaError_t by its text.
bool is_shortage(const fe::error_t& status) {
  return status.err_msg.find("_ALLOCATION_FAILED") != std::string::npos ||
         status.err_msg.find(cudaGetErrorString(cudaErrorMemoryAllocation)) != std::string::npos;
}

class Builder {
 public:
  explicit Builder(const ConvolutionSpec& spec) : s_(spec), graph_(std::make_unique<Graph>()) {
    const fe::DataType_t sums = spec.dtype == DType::f64 ? fe::DataType_t::DOUBLE : fe::DataType_t::FLOAT;
    graph_->set_intermediate_data_type(sums).set_compute_data_type(sums);
  }

  std::unique_ptr<Graph> build() {
    Tensor result = product();
    if (s_.bias) result = add(result, input(uid_bias, s_.dtype, {1, s_.k, 1, 1}));
    if (s_.add) result = add(result, input(uid_z, s_.result, result_extents()));
    if (s_.relu) {
      result = graph_->pointwise(result,
                                 fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::RELU_FWD));
    }
    if (s_.pass == Pass::grad_weight && s_.result != s_.dtype) result = cast(result);
    describe(*result, uid_out, s_.result, result_extents()).set_output(true);
    if (s_.statistics) {
      const auto [sum, square] = graph_->genstats(result, fe::graph::Genstats_attributes());
      describe(*sum, uid_sum, DType::f32, {1, s_.k, 1, 1}).set_output(true);
      describe(*square, uid_square, DType::f32, {1, s_.k, 1, 1}).set_output(true);
    }
    return std::move(graph_);
  }

 private:
  Extents images() const { return {s_.n, s_.c, s_.h, s_.w}; }
  Extents results() const { return {s_.n, s_.k, s_.oh, s_.ow}; }
  Extents weights() const { return {s_.k, s_.c / s_.groups, s_.r, s_.s}; }
  Extents result_extents() const {
    return s_.pass == Pass::forward ? results() : s_.pass == Pass::grad_input ? images() : weights();
  }

  Tensor input(Uid uid, DType dtype, Extents extents) {
    Attributes tensor;
    return graph_->tensor(describe(tensor, uid, dtype, extents));
  }

  template <class ConvolutionAttributes>
  ConvolutionAttributes attributes() const {
    return ConvolutionAttributes()
        .set_padding({s_.pad_h, s_.pad_w})
        .set_stride({s_.stride_h, s_.stride_w})
        .set_dilation({s_.dilation_h, s_.dilation_w});
  }

  Tensor product() {
    switch (s_.pass) {
      case Pass::forward:
        return graph_->conv_fprop(input(uid_a, s_.dtype, images()), input(uid_b, s_.dtype, weights()),
                                  attributes<fe::graph::Conv_fprop_attributes>());
      case Pass::grad_input: {
        const Tensor g = input(uid_a, s_.dtype, results());
        Tensor dx = graph_->conv_dgrad(g, input(uid_b, s_.dtype, weights()),
                                       attributes<fe::graph::Conv_dgrad_attributes>());
        dx->set_dim({s_.n, s_.c, s_.h, s_.w});  // does not follow from g and w
        return dx;
      }
      case Pass::grad_weight: {
        const Tensor x = input(uid_a, s_.dtype, images());
        Tensor dw = graph_->conv_wgrad(input(uid_b, s_.dtype, results()), x,
                                       attributes<fe::graph::Conv_wgrad_attributes>());
        dw->set_dim({s_.k, s_.c / s_.groups, s_.r, s_.s});
        return dw;
      }
    }
    throw Error("cudnn", "expected a pass of a convolution");
  }

  Tensor add(const Tensor& a, const Tensor& b) {
    return graph_->pointwise(a, b, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::ADD));
  }

  /// cuDNN has no gradient of weights in another dtype than its operands', but may write its sums with a step
  /// more.
  Tensor cast(const Tensor& sums) {
    return graph_->pointwise(sums, fe::graph::Pointwise_attributes().set_mode(fe::PointwiseMode_t::IDENTITY));
  }

  const ConvolutionSpec& s_;
  std::unique_ptr<Graph> graph_;
};

}  // namespace

void check(const fe::error_t& status) {
  if (status.is_bad()) fail("cudnn", one_line(status.err_msg), is_shortage(status));
}

std::unique_ptr<Graph> graph_of(const ConvolutionSpec& spec) { return Builder(spec).build(); }

std::vector<std::int64_t> build_candidates(Graph& graph, const ConvolutionSpec& spec, cudnnHandle_t handle,
                                           int most) {
  check(graph.validate());
  check(graph.build_operation_graph(handle));
  check(graph.create_execution_plans({fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK}));
  graph.deselect_numeric_notes(unwanted(spec));
  graph.deselect_workspace_greater_than(most_workspace_bytes);
  std::vector<std::int64_t> built;
  std::string refusal = "no engine is deterministic, and of the precision that is asked for";
  bool shortage = false;
  for (std::int64_t i = 0; i < graph.get_execution_plan_count() && std::ssize(built) < most; ++i) {
    const fe::error_t status = graph.build_plan_at_index(i);
    if (status.is_good()) {
      built.push_back(i);
    } else if (status.err_msg != "Deselecting execution plan") {
      refusal = status.err_msg;
      shortage = shortage || is_shortage(status);
    }
  }
  if (built.empty()) fail("cudnn", one_line(refusal), shortage);
  return built;
}

}  // namespace fusetape::backends::cuda
