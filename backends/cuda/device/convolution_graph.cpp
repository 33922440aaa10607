#include "backends/cuda/device/convolution_graph.hpp"

#include <vector>

#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

namespace fe = cudnn_frontend;
using Graph = fe::graph::Graph;
using Attributes = fe::graph::Tensor_attributes;
using Tensor = std::shared_ptr<Attributes>;
using Pass = ConvolutionSpec::Pass;

enum Uid : std::int64_t { uid_a = 1, uid_b, uid_bias, uid_z, uid_out, uid_sum, uid_square };

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

std::unique_ptr<Graph> graph_of(const ConvolutionSpec& spec) { return Builder(spec).build(); }

std::vector<std::int64_t> build_candidates(Graph& graph, const ConvolutionSpec& spec, cudnnHandle_t handle,
                                           int most) {
  return build_plans(graph, unwanted(spec), handle, most);
}

}  // namespace fusetape::backends::cuda
