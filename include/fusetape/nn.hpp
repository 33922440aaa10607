#pragma once
#include <cstdint>
#include <functional>

#include "fusetape/containers.hpp"
#include "fusetape/init.hpp"
#include "fusetape/module.hpp"
#include "fusetape/summary.hpp"

/// Layers. Images are {N, H, W, C}.
namespace fusetape::nn {

// ---- layers with parameters
// ---------------------------------------------------------------------------------------------

/// x: for a place in a model that nothing is to be done at.
class Identity : public Module {
 protected:
  Tensor forward(const Tensor& x) override { return x; }
};

/// x {…, in} · weightᵀ + bias; weight {out, in}. Initialised uniformly in ±1/√in.
class Linear : public Module {
 public:
  struct Options {
    std::int64_t in = 0, out = 0;
    bool bias = true;
  };
  explicit Linear(Options options, Location at = Location::current());
  Linear(std::int64_t in, std::int64_t out, Location at = Location::current())
      : Linear(Options{in, out, true}, at) {}
  const Parameter& weight() const { return weight_; }
  const Parameter& bias() const { return bias_; }  ///< undefined without one

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Parameter weight_, bias_;
};

/// weight {out, kh, kw, in/groups}, Kaiming normal (fan out, for ReLU); the bias starts at 0.
class Conv2d : public Module {
 public:
  struct Options {
    std::int64_t in = 0, out = 0;
    Size2d kernel = 1;
    Size2d stride = 1;
    Padding2d padding = 0;
    Size2d dilation = 1;
    std::int64_t groups = 1;
    bool bias = true;
  };
  explicit Conv2d(Options options, Location at = Location::current());
  const Parameter& weight() const { return weight_; }
  const Parameter& bias() const { return bias_; }

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  friend class Module;
  friend class BatchNormFolding;
  Conv2dOptions options_;
  Parameter weight_, bias_;
};

/// weight {in, kh, kw, out/groups}.
class ConvTranspose2d : public Module {
 public:
  struct Options {
    std::int64_t in = 0, out = 0;
    Size2d kernel = 1;
    Size2d stride = 1;
    Padding2d padding = 0;
    Size2d output_padding = 0;
    Size2d dilation = 1;
    std::int64_t groups = 1;
    bool bias = true;
  };
  explicit ConvTranspose2d(Options options, Location at = Location::current());
  const Parameter& weight() const { return weight_; }
  const Parameter& bias() const { return bias_; }

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  ConvTranspose2dOptions options_;
  Parameter weight_, bias_;
};

/// Over the last axis. In training it uses the batch's statistics and moves the running ones; in evaluation
/// it uses those. Folded into a convolution it is the identity, and refuses to train.
class BatchNorm2d : public Module {
 public:
  explicit BatchNorm2d(std::int64_t channels, Location at = Location::current())
      : BatchNorm2d(channels, BatchNormOptions{}, at) {}
  BatchNorm2d(std::int64_t channels, BatchNormOptions options, Location at = Location::current());
  const Parameter& weight() const { return weight_; }
  const Parameter& bias() const { return bias_; }
  const Cell& running_mean() const { return running_mean_; }
  const Cell& running_var() const { return running_var_; }
  bool is_folded() const { return folded_; }
  /// Uses and keeps the running statistics in training, too: train() does not change that. Its parameters are
  /// trained as before, unless set_requires_grad(false) says otherwise.
  void freeze_statistics(bool on = true) { frozen_ = on; }
  bool has_frozen_statistics() const { return frozen_; }

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  friend class Module;
  friend class BatchNormFolding;
  friend class NormRecalibration;
  BatchNormOptions options_;
  Parameter weight_, bias_;
  Cell running_mean_, running_var_;
  bool folded_ = false, frozen_ = false;
  std::int64_t averaged_ = -1;  ///< batches so far, while the running statistics are their mean; else −1
};

/// freeze_statistics() of every batch norm of the model: to fine-tune with batches too small for statistics.
void freeze_statistics(Module& model, bool on = true);

/// Running statistics anew, as the means over the batches that `run_batches` calls the model with: for
/// weights that no batch was trained with, such as averages (AveragedWeights) or a sum of models. Only the
/// batch norms without frozen statistics are in training mode meanwhile, and no history is recorded;
/// afterwards the modes are as before. Throws where no batch has reached a norm; then, and where
/// `run_batches` throws, statistics are as before.
///
///     const ft::optim::AveragedWeights averaged(sgd);
///     ft::nn::recalibrate_norms(model, [&] { for (auto [images, labels] : loader) model(images); });
void recalibrate_norms(Module& model, const std::function<void()>& run_batches,
                       Location at = Location::current());

/// For a model that is only evaluated from now on: makes every convolution that feeds a batch norm
/// (register_conv_norm) do its work, too, and the batch norm the identity. w' = a·w, b' = a·(b − μ) + β with
/// a = γ/√(σ² + ε), in double, rounded once. Returns how many were folded: 0 the second time. The convolution
/// has a parameter "bias" then and the batch norm no parameters or buffers, so a checkpoint of the folded
/// model fits folded models only. A convolution with a forward hook stays as it is. Runs what is pending.
/// Throws, and changes nothing, where one of them is in training mode.
int fold_batch_norm(Module& model, Location at = Location::current());

/// Over the last axis: x {…, width}. weight and bias {width}.
class LayerNorm : public Module {
 public:
  explicit LayerNorm(std::int64_t width, double eps = 1e-5, Location at = Location::current());
  const Parameter& weight() const { return weight_; }
  const Parameter& bias() const { return bias_; }

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  double eps_;
  Parameter weight_, bias_;
};

/// Over groups of channels of each sample: x {N, …, channels}. weight and bias {channels}.
class GroupNorm : public Module {
 public:
  GroupNorm(std::int64_t groups, std::int64_t channels, double eps = 1e-5, Location at = Location::current());
  const Parameter& weight() const { return weight_; }
  const Parameter& bias() const { return bias_; }

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  std::int64_t groups_;
  double eps_;
  Parameter weight_, bias_;
};

/// Indices {…} i64 in [0, entries) → {…, width}. weight {entries, width}, standard normal.
class Embedding : public Module {
 public:
  Embedding(std::int64_t entries, std::int64_t width, Location at = Location::current());
  const Parameter& weight() const { return weight_; }

 protected:
  Tensor forward(const Tensor& indices) override;

 private:
  Parameter weight_;
};

// ---- layers without parameters
// ------------------------------------------------------------------------------------------

/// A function of one tensor: relu, gelu, ….
using Function = Tensor (*)(Operand);

/// A function of one tensor as a layer: `Activation<relu>`.
template <Function function>
class Activation : public Module {
 protected:
  Tensor forward(const Tensor& x) override { return function({x, here()}); }
};

using ReLU = Activation<relu>;
using ReLU6 = Activation<relu6>;
using Sigmoid = Activation<sigmoid>;
using Tanh = Activation<tanh>;
using GELU = Activation<gelu>;
using GELUTanh = Activation<gelu_tanh>;
using SiLU = Activation<silu>;
using Softplus = Activation<softplus>;
using Mish = Activation<mish>;
using Hardsigmoid = Activation<hardsigmoid>;
using Hardswish = Activation<hardswish>;

class LeakyReLU : public Module {
 public:
  explicit LeakyReLU(double slope = 0.01) : slope_(slope) {}

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  double slope_;
};

class ELU : public Module {
 public:
  explicit ELU(double alpha = 1) : alpha_(alpha) {}

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  double alpha_;
};

/// In training, zeroes with probability p and scales the rest by 1/(1−p); in evaluation, the identity.
class Dropout : public Module {
 public:
  explicit Dropout(double p = 0.5, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  double p_;
};

/// In training, zeroes whole channels of an image {N, H, W, C}, each with probability p, and scales the rest
/// by 1/(1−p) (Tompson et al. 2015); in evaluation, the identity.
class Dropout2d : public Module {
 public:
  explicit Dropout2d(double p = 0.5, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  double p_;
};

/// In training, zeroes whole samples with probability p and scales the rest by 1/(1−p): a residual branch's,
/// so that a network is trained at many depths (Huang et al. 2016). In evaluation, the identity.
class DropPath : public Module {
 public:
  explicit DropPath(double p, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  double p_;
};

class MaxPool2d : public Module {
 public:
  using Options = Pool2dOptions;
  explicit MaxPool2d(Options options = {}) : options_(options) {}
  explicit MaxPool2d(Size2d window) : options_{.window = window} {}

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Pool2dOptions options_;
};

class AvgPool2d : public Module {
 public:
  using Options = Pool2dOptions;
  explicit AvgPool2d(Options options = {}) : options_(options) {}
  explicit AvgPool2d(Size2d window) : options_{.window = window} {}

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Pool2dOptions options_;
};

/// {N, H, W, C} → {N, C}
class GlobalAvgPool : public Module {
 protected:
  Tensor forward(const Tensor& x) override;
};

class AdaptiveAvgPool2d : public Module {
 public:
  explicit AdaptiveAvgPool2d(Size2d size) : size_(size) {}

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  Size2d size_;
};

/// By a whole factor in both directions.
class Upsample : public Module {
 public:
  explicit Upsample(std::int64_t factor, Upsampling by = Upsampling::nearest,
                    Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  std::int64_t factor_;
  Upsampling by_;
};

class PixelShuffle : public Module {
 public:
  explicit PixelShuffle(std::int64_t factor) : factor_(factor) {}

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  std::int64_t factor_;
};

/// Joins the axes from `from_axis` on.
class Flatten : public Module {
 public:
  explicit Flatten(int from_axis = 1) : from_axis_(from_axis) {}

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  int from_axis_;
};

}  // namespace fusetape::nn
