#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fusetape/ops.hpp"
#include "fusetape/tensor.hpp"

/// Modules: named parameters, buffers and children. Images are {N, H, W, C}.
namespace fusetape::nn {

class Conv2d;
class BatchNorm2d;

/// A part of a model. Subclasses register what they own in their constructors and override forward(), or,
/// with several inputs, define a method of their own that begins with a ModuleScope. Not copied, not moved: a
/// factory returns a prvalue.
///
///     struct Net : ft::nn::Module {
///       ft::nn::Conv2d conv{{.in = 3, .out = 8, .kernel = 3}};
///       ft::nn::Linear fc{8, 10};
///       Net() { register_child("conv", conv), register_child("fc", fc); }
///       ft::Tensor forward(const ft::Tensor& x) override { return
///       fc(ft::global_avg_pool(ft::relu(conv(x)))); }
///     };
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// forward(x), with everything it records known by this module's path and the caller's line.
  /// A module that runs inside another one has to be registered, with any module, or borrowed by the other:
  /// otherwise it throws, as it would be neither trained nor saved nor switched to evaluation.
  Tensor operator()(const Tensor& x, Location at = Location::current());

  /// Own parameters first, then the children's, in the order of registration; a shared one once.
  std::vector<Parameter> parameters() const;
  std::vector<std::pair<std::string, Parameter>> named_parameters() const;
  std::vector<std::pair<std::string, Cell>> named_buffers() const;
  std::vector<std::pair<std::string, Module*>> named_children() const { return children_; }
  std::int64_t parameter_count() const;

  /// Training mode, here and in every child: batch norm takes the batch's statistics, dropout drops.
  void train(bool on = true);
  void eval() { train(false); }
  bool is_training() const { return training_; }
  void zero_grad();

  /// "stages.1.0.conv2"; empty for the outermost module.
  const std::string& path() const { return *path_; }

 protected:
  virtual Tensor forward(const Tensor& x);

  Parameter register_parameter(const std::string& name, const Tensor& value,
                               Location at = Location::current());
  /// State that is saved but not trained.
  Cell register_buffer(const std::string& name, const Tensor& value, Location at = Location::current());
  /// The child must live as long as this module: a member, or owned by one.
  void register_child(const std::string& name, Module& child, Location at = Location::current());
  /// Says that this module calls `other`, which it does not own: a teacher, the backbone of another model.
  /// Whoever owns that trains it, saves it and switches it to evaluation.
  void borrow(const Module& other, Location at = Location::current());
  /// Says that forward() hands conv's result to norm and to nothing else, so that fold_batch_norm may join
  /// the two. Sequential does so for neighbours. Throws where either has a partner.
  void register_conv_norm(Conv2d& conv, BatchNorm2d& norm, Location at = Location::current());

  /// The line from which user code called the outermost library module: what the library's own modules hand
  /// on.
  static Location here(Location otherwise = Location::current());

 private:
  friend class ModuleScope;
  friend class BatchNormFolding;
  void check_name(const std::string& name, Location at) const;
  void set_path(const std::string& path);
  bool contains(const Module& other) const;
  void check_has_owner(Location at) const;
  template <class Visit>
  void visit(const std::string& prefix, Visit&& visit_one) const;

  std::vector<std::pair<std::string, Parameter>> parameters_;
  std::vector<std::pair<std::string, Cell>> buffers_;
  std::vector<std::pair<std::string, Module*>> children_;
  std::vector<const Module*> borrowed_;
  std::vector<std::pair<Conv2d*, BatchNorm2d*>> conv_norms_;
  const std::string* path_ = empty_path();
  bool has_parent_ = false;
  bool training_ = true;

  static const std::string* empty_path();
};

/// What is recorded while it lives belongs to `module`: for methods beside forward(). Throws as a call of the
/// module does.
class ModuleScope {
 public:
  explicit ModuleScope(const Module& module, Location at = Location::current());
  ~ModuleScope();
  ModuleScope(const ModuleScope&) = delete;
  ModuleScope& operator=(const ModuleScope&) = delete;

 private:
  alignas(void*) std::byte scope_[48];
};

// ---- layers with parameters
// ---------------------------------------------------------------------------------------------

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
  bool feeds_norm_ = false;
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

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  friend class Module;
  friend class BatchNormFolding;
  BatchNormOptions options_;
  Parameter weight_, bias_;
  Cell running_mean_, running_var_;
  bool reads_conv_ = false, folded_ = false;
};

/// For a model that is only evaluated from now on: makes every convolution that feeds a batch norm
/// (register_conv_norm) do its work, too, and the batch norm the identity. w' = a·w, b' = a·(b − μ) + β with
/// a = γ/√(σ² + ε), in double, rounded once. Returns how many were folded: 0 the second time. The convolution
/// has a parameter "bias" then and the batch norm no parameters or buffers, so a checkpoint of the folded
/// model fits folded models only. Runs what is pending. Throws, and changes nothing, where one of them is in
/// training mode.
int fold_batch_norm(Module& model, Location at = Location::current());

// ---- layers without parameters
// ------------------------------------------------------------------------------------------

/// A function of one tensor as a layer: `Activation<relu>`.
template <Tensor (*function)(Operand)>
class Activation : public Module {
 protected:
  Tensor forward(const Tensor& x) override { return function({x, here()}); }
};

using ReLU = Activation<relu>;
using ReLU6 = Activation<relu6>;
using Sigmoid = Activation<sigmoid>;
using Tanh = Activation<tanh>;
using GELU = Activation<gelu>;
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

/// Joins the axes from `from_axis` on.
class Flatten : public Module {
 public:
  explicit Flatten(int from_axis = 1) : from_axis_(from_axis) {}

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  int from_axis_;
};

/// Children "0", "1", …, one after the other; it owns them.
///
///     ft::nn::Sequential net;
///     net.emplace<ft::nn::Conv2d>({.in = 3, .out = 16, .kernel = 3, .padding = 1});
///     net.emplace<ft::nn::ReLU>();
class Sequential : public Module {
 public:
  /// Constructs a T from up to three arguments and the caller's line, where T takes that.
  template <std::derived_from<Module> T>
  T& emplace(Location at = Location::current()) {
    return make<T>(at);
  }
  template <std::derived_from<Module> T, class A>
  T& emplace(A&& a, Location at = Location::current()) {
    return make<T>(at, std::forward<A>(a));
  }
  template <std::derived_from<Module> T, class A, class B>
  T& emplace(A&& a, B&& b, Location at = Location::current()) {
    return make<T>(at, std::forward<A>(a), std::forward<B>(b));
  }
  template <std::derived_from<Module> T, class A, class B, class C>
  T& emplace(A&& a, B&& b, C&& c, Location at = Location::current()) {
    return make<T>(at, std::forward<A>(a), std::forward<B>(b), std::forward<C>(c));
  }
  template <std::derived_from<Module> T>
    requires requires { typename T::Options; }
  T& emplace(typename T::Options options, Location at = Location::current()) {
    return make<T>(at, std::move(options));
  }
  Module& append(std::unique_ptr<Module> module, Location at = Location::current());
  std::size_t size() const { return modules_.size(); }

  /// Which child, and the caller's line, which an operator cannot take by itself.
  struct Index {
    template <WholeNumber T>
    Index(T i, Location where = Location::current()) : number(static_cast<std::int64_t>(i)), at(where) {}
    std::int64_t number;
    Location at;
  };
  /// Throws where there is no such child.
  Module& operator[](Index i);

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  template <class T, class... Arguments>
  T& make(Location at, Arguments&&... arguments) {
    if constexpr (std::constructible_from<T, Arguments..., Location>) {
      return static_cast<T&>(append(std::make_unique<T>(std::forward<Arguments>(arguments)..., at), at));
    } else {
      return static_cast<T&>(append(std::make_unique<T>(std::forward<Arguments>(arguments)...), at));
    }
  }

  std::vector<std::unique_ptr<Module>> modules_;
};

// ---- initial values, drawn on the host from this thread's generator: the same seed gives the same bits
// --------------------

/// Normal with standard deviation √(2 / fan_out), for weights {out, kh, kw, in/groups} before a ReLU.
Tensor kaiming_normal(const Shape& shape, std::int64_t fan_out, Location at = Location::current());
/// Uniform in [low, high), finite numbers of f32.
Tensor uniform(const Shape& shape, double low, double high, Location at = Location::current());

}  // namespace fusetape::nn
