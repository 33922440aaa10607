#include "backends/cuda/device/normalization_graph.hpp"

#include <string>

#include "fusetape/error.hpp"

namespace fusetape::backends::cuda {
namespace {

namespace fe = cudnn_frontend;
using Graph = fe::graph::Graph;
using Attributes = fe::graph::Tensor_attributes;
using Pointwise = fe::graph::Pointwise_attributes;
using Tensor = std::shared_ptr<Attributes>;

std::int64_t uid_of(NormPlace place) { return static_cast<std::int64_t>(place) + 1; }

void require_channels(const NormSpec& spec) {
  const std::int64_t step = spec.dtype == DType::f32 ? 4 : 8;
  if (spec.c % step == 0) return;
  throw Error("cudnn", "expected a multiple of " + std::to_string(step) + " channels of " +
                           std::string(name_of(spec.dtype)) + ", got " + std::to_string(spec.c));
}

class Builder {
 public:
  explicit Builder(const NormSpec& spec) : s_(spec), graph_(std::make_unique<Graph>()) {
    graph_->set_intermediate_data_type(fe::DataType_t::FLOAT).set_compute_data_type(fe::DataType_t::FLOAT);
  }

  std::unique_ptr<Graph> build() {
    s_.pass == NormSpec::Pass::forward ? forward() : backward();
    return std::move(graph_);
  }

 private:
  /// The operand in this place, as its tensor is to be.
  void describe_place(Attributes& tensor, NormPlace place) const {
    using Kind = NormOperand::Kind;
    for (const NormOperand& operand : operands_of(s_)) {
      if (operand.place != place) continue;
      const bool channels = operand.kind == Kind::channels;
      const Extents extents = channels ? Extents{1, s_.c, 1, 1} : Extents{s_.n, s_.c, s_.h, s_.w};
      describe(tensor, uid_of(place), channels ? DType::f32 : s_.dtype, extents);
      if (operand.kind == Kind::bits) tensor.set_data_type(fe::DataType_t::BOOLEAN);
    }
  }

  Tensor input(NormPlace place) {
    Attributes tensor;
    describe_place(tensor, place);
    return graph_->tensor(tensor);
  }

  void output(const Tensor& tensor, NormPlace place) {
    describe_place(*tensor, place);
    tensor->set_output(true);
  }

  void forward() {
    using enum NormPlace;
    fe::graph::Batchnorm_attributes attributes;
    Tensor eps = graph_->tensor(static_cast<float>(s_.eps));
    attributes.set_epsilon(eps);
    const Tensor images = input(x), scale = input(gamma), bias = input(beta);
    const auto made = graph_->batchnorm(images, scale, bias, attributes);
    const Tensor &normed = made[0], &batch_mean = made[1], &batch_inv_std = made[2];
    output(batch_mean, mean);
    output(batch_inv_std, inv_std);
    Tensor result = normed;
    if (s_.add) result = graph_->pointwise(result, input(z), Pointwise().set_mode(fe::PointwiseMode_t::ADD));
    if (s_.relu) result = graph_->pointwise(result, Pointwise().set_mode(fe::PointwiseMode_t::RELU_FWD));
    output(result, y);
  }

  void backward() {
    using enum NormPlace;
    Tensor gradient = input(g);
    if (s_.mask) {
      gradient = graph_->pointwise(gradient, input(mask), Pointwise().set_mode(fe::PointwiseMode_t::MUL));
      gradient->set_data_type(type_of(s_.dtype));
      if (s_.masked) output(gradient, masked);
    }
    const Tensor images = input(x), scale = input(gamma);
    auto attributes = fe::graph::Batchnorm_backward_attributes().set_saved_mean_and_inv_variance(
        input(mean), input(inv_std));
    const auto [image_gradient, scale_gradient, bias_gradient] =
        graph_->batchnorm_backward(gradient, images, scale, attributes);
    output(image_gradient, dx);
    output(scale_gradient, dgamma);
    output(bias_gradient, dbeta);
  }

  const NormSpec& s_;
  std::unique_ptr<Graph> graph_;
};

}  // namespace

std::unique_ptr<Graph> graph_of(const NormSpec& spec) {
  require_channels(spec);
  return Builder(spec).build();
}

std::vector<fe::NumericalNote_t> unwanted_of_norms() {
  using Note = fe::NumericalNote_t;
  return {Note::NONDETERMINISTIC, Note::REDUCED_PRECISION_REDUCTION, Note::DOWN_CONVERT_INPUTS};
}

}  // namespace fusetape::backends::cuda
