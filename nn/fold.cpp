// Folds batch norms into the convolutions before them (Jacob et al. 2018, section 3.2).
#include <cmath>

#include "fusetape/nn.hpp"
#include "nn/module_state.hpp"

namespace fusetape::nn {

void Module::register_conv_norm(Conv2d& conv, BatchNorm2d& norm, Location at) {
  const std::int64_t out = conv.weight().shape()[0], channels = norm.weight().shape()[0];
  if (conv.state().partner != nullptr || norm.state().partner != nullptr) {
    throw Error("module",
                "expected a convolution and a batch norm without a partner, got '" + conv.path() + "' and '" +
                    norm.path() + "'",
                at, path());
  }
  if (out != channels) {
    throw Error("module",
                "expected a batch norm of " + std::to_string(out) + " channels, the convolution's, got " +
                    std::to_string(channels),
                at, path());
  }
  conv.state().partner = &norm.state();
  norm.state().partner = &conv.state();
}

class BatchNormFolding {
 public:
  explicit BatchNormFolding(Module& model) { collect(model); }

  void require_evaluation(Location at) const {
    for (const auto& [conv, norm] : pairs_) {
      if (!conv->is_training() && !norm->is_training()) continue;
      throw Error("fold_batch_norm",
                  "expected a model in evaluation mode, got one in training mode: call eval() first", at,
                  norm->path());
    }
  }

  int fold(Location at) {
    for (const auto& [conv, norm] : pairs_) fold(*conv, *norm, at);
    return static_cast<int>(pairs_.size());
  }

 private:
  using Numbers = std::vector<double>;

  /// Of the pairs, those that are of the model as a whole.
  void collect(Module& model) {
    Module::State& whole = model.state();
    whole.visit("", [&](Module::State& module, const std::string&) {
      auto* const conv = dynamic_cast<Conv2d*>(module.self);
      if (conv == nullptr || module.partner == nullptr || !whole.contains(*module.partner)) return;
      if (module.hooks != nullptr && !module.hooks->all.empty())
        return;  // they see what comes before the norm
      auto* const norm = dynamic_cast<BatchNorm2d*>(module.partner->self);
      if (norm != nullptr && !norm->folded_) pairs_.emplace_back(conv, norm);
    });
  }

  static void fold(Conv2d& conv, BatchNorm2d& norm, Location at) {
    const Numbers gamma = norm.weight_.value().to_vector<double>(at),
                  beta = norm.bias_.value().to_vector<double>(at),
                  mean = norm.running_mean_.value().to_vector<double>(at),
                  variance = norm.running_var_.value().to_vector<double>(at);
    Numbers weight = conv.weight_.value().to_vector<double>(at);
    Numbers bias =
        conv.bias_.defined() ? conv.bias_.value().to_vector<double>(at) : Numbers(gamma.size(), 0.0);
    const std::size_t each = gamma.empty() ? 0 : weight.size() / gamma.size();
    for (std::size_t o = 0; o < gamma.size(); ++o) {
      const double a = gamma[o] / std::sqrt(variance[o] + norm.options_.eps);
      for (std::size_t i = 0; i < each; ++i) weight[o * each + i] *= a;
      bias[o] = a * (bias[o] - mean[o]) + beta[o];
    }
    const DType dtype = conv.weight_.dtype();
    conv.weight_.set_data(from_doubles(weight, conv.weight_.shape(), dtype, at), at);
    const Tensor shift = from_doubles(bias, norm.bias_.shape(), dtype, at);
    if (conv.bias_.defined()) {
      conv.bias_.set_data(shift, at);
    } else {
      conv.bias_ = conv.register_parameter("bias", shift, at);
    }
    norm.state().parameters.clear();
    norm.state().buffers.clear();
    norm.folded_ = true;
  }

  std::vector<std::pair<Conv2d*, BatchNorm2d*>> pairs_;
};

int fold_batch_norm(Module& model, Location at) {
  BatchNormFolding folding(model);
  folding.require_evaluation(at);
  return folding.fold(at);
}

}  // namespace fusetape::nn
