#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fusetape/optimizer.hpp"

/// Optimizers, clipping and loss scaling.
namespace fusetape::optim {

struct SGDOptions {
  double lr = 0.1;
  double momentum = 0;  ///< 0: no velocity is kept
  double weight_decay = 0;
  bool nesterov = false;
  double max_grad_norm = 0;   ///< > 0: the gradients' joint 2-norm is clipped to it inside step()
  double max_grad_value = 0;  ///< > 0: each element of them, after that, to ±max_grad_value
  NonFinite non_finite = NonFinite::update;
  std::vector<ParameterGroup> groups = {};
  WeightAverage average = {};  ///< or lookahead, not both
  Lookahead lookahead = {};
};
/// d = g + weight_decay·p;  v ← momentum·v + d;  p ← p − lr·(nesterov ? d + momentum·v : v)
class SGD : public Optimizer {
 public:
  SGD(std::vector<Parameter> parameters, SGDOptions options = {}, Location at = Location::current());

 protected:
  void begin_step(Location at) override;
  void update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) override;
  void end_step() override;
  Settings own_settings() const override;
  void set_own_settings(const Settings& settings, Location at) override;
  bool takes_momentum() const override { return options_.momentum > 0; }
  bool limits_gradients() const override { return true; }

 private:
  SGDOptions options_;
  std::vector<Tensor> scalars_;
};

struct AdamOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;    ///< Adam: added to the gradient
  double max_grad_norm = 0;   ///< > 0: the gradients' joint 2-norm is clipped to it inside step()
  double max_grad_value = 0;  ///< > 0: each element of them, after that, to ±max_grad_value
  NonFinite non_finite = NonFinite::update;
  std::vector<ParameterGroup> groups = {};
  WeightAverage average = {};  ///< or lookahead, not both
  Lookahead lookahead = {};
};
struct AdamWOptions {
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-2;  ///< AdamW: shrinks the parameter itself
  double max_grad_norm = 0;    ///< > 0: the gradients' joint 2-norm is clipped to it inside step()
  double max_grad_value = 0;   ///< > 0: each element of them, after that, to ±max_grad_value
  NonFinite non_finite = NonFinite::update;
  std::vector<ParameterGroup> groups = {};
  WeightAverage average = {};  ///< or lookahead, not both
  Lookahead lookahead = {};
};

/// m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  p ← p − lr·(m/c₁)/(√(v/c₂) + eps), c_i = 1 − β_iᵗ
class Adam : public Optimizer {
 public:
  Adam(std::vector<Parameter> parameters, AdamOptions options = {}, Location at = Location::current());

 protected:
  Adam(std::string name, std::vector<Parameter> parameters, AdamOptions options, int variant,
       double momentum_decay, Location at);
  void begin_step(Location at) override;
  void update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) override;
  void end_step() override;
  Settings own_settings() const override;
  void set_own_settings(const Settings& settings, Location at) override;
  bool takes_momentum() const override { return true; }
  bool limits_gradients() const override { return true; }

 private:
  std::span<const Tensor> scalars_of(std::size_t group, std::int64_t count, Location at);

  struct Momentum {
    double now, next;  ///< μ of this update and of the next
    double product;    ///< of all up to this one
  };
  Momentum momentum_at(double beta1, std::int64_t count);

  AdamOptions options_;
  int variant_;
  double momentum_decay_;  ///< NAdam's ψ
  struct Product {
    double beta1 = 0;
    std::int64_t count = 0;
    double value = 1;
  };
  std::vector<Product> products_;  ///< of NAdam's momenta, up to counts; the last few
  std::vector<std::pair<std::size_t, std::int64_t>> kinds_;  ///< group and count of updates, in this step
  std::vector<Tensor> scalars_;                              ///< for each of them
};

class AdamW : public Adam {
 public:
  AdamW(std::vector<Parameter> parameters, AdamWOptions options = {}, Location at = Location::current());
};

struct NAdamOptions {
  double lr = 2e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  double momentum_decay = 4e-3;  ///< ψ ≥ 0
  bool decoupled = false;        ///< the decay shrinks the parameter itself, as AdamW's
  double max_grad_norm = 0;      ///< > 0: the gradients' joint 2-norm is clipped to it inside step()
  double max_grad_value = 0;     ///< > 0: each element of them, after that, to ±max_grad_value
  NonFinite non_finite = NonFinite::update;
  std::vector<ParameterGroup> groups = {};
  WeightAverage average = {};  ///< or lookahead, not both
  Lookahead lookahead = {};
};
/// Adam with Nesterov's momentum (Dozat, "Incorporating Nesterov Momentum into Adam", 2016), as
/// torch.optim.NAdam is documented (PyTorch 2): μₜ = β₁(1 − ½·0.96^(ψt)), Πₜ = μ₁⋯μₜ,
/// p ← p − lr·(μₜ₊₁·m/(1 − Πₜ₊₁) + (1 − μₜ)·g/(1 − Πₜ))/(√(v/c₂) + eps). Where β₁ changes, Π is as if it had
/// always been today's.
class NAdam : public Adam {
 public:
  NAdam(std::vector<Parameter> parameters, NAdamOptions options = {}, Location at = Location::current());
};

struct MuonOptions {
  double lr = 0.02;
  double momentum = 0.95;  ///< in [0, 1)
  bool nesterov = true;
  double weight_decay = 0;  ///< shrinks the parameter itself
  int iterations = 5;       ///< of Newton and Schulz; 1 to 20
  bool match_adam = false;  ///< the update times 0.2·√max(rows, columns), so that its size is that of Adam's
                            ///< (Liu et al. 2025), in place of √max(1, rows/columns)
  bool normalize = false;  ///< p is scaled to a 2-norm of √rows first: for filters whose scale a norm undoes
  double max_grad_norm = 0;   ///< > 0: the gradients' joint 2-norm is clipped to it inside step()
  double max_grad_value = 0;  ///< > 0: each element of them, after that, to ±max_grad_value
  NonFinite non_finite = NonFinite::update;
  std::vector<ParameterGroup> groups = {};
};
/// For parameters of two axes and more, a matrix each of the first axis by all others: v ← momentum·v + g;
/// u = nesterov ? g + momentum·v : v;  O = the nearest matrix to u whose singular values are near 1 (0.7
/// to 1.2 after five iterations of Newton and Schulz's, X ← 3.4445·X − 4.7750·(XXᵀ)X + 2.0315·(XXᵀ)²X from
/// u/‖u‖);  p ← (1 − lr·weight_decay)·(normalize ? √rows·p/‖p‖ : p) − lr·scale·O (Jordan et al., "Muon: An
/// optimizer for hidden layers in neural networks", 2024). Biases, norms, embeddings and the last layer are
/// another optimizer's. The products are planned as any others. Throws for a parameter of fewer than two
/// axes.
class Muon : public Optimizer {
 public:
  Muon(std::vector<Parameter> parameters, MuonOptions options = {}, Location at = Location::current());

 protected:
  void begin_step(Location at) override;
  void update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) override;
  void end_step() override {}
  Settings own_settings() const override;
  void set_own_settings(const Settings& settings, Location at) override;
  bool takes_momentum() const override { return true; }

 private:
  MuonOptions options_;
  std::vector<Cell> velocities_;
};

struct RMSpropOptions {
  double lr = 1e-2;
  double alpha = 0.99;  ///< of the averages
  double eps = 1e-8;
  double weight_decay = 0;    ///< added to the gradient
  double momentum = 0;        ///< 0: no buffer is kept
  bool centered = false;      ///< divides by the gradient's deviation, for which its average is kept, too
  double max_grad_norm = 0;   ///< > 0: the gradients' joint 2-norm is clipped to it inside step()
  double max_grad_value = 0;  ///< > 0: each element of them, after that, to ±max_grad_value
  NonFinite non_finite = NonFinite::update;
  std::vector<ParameterGroup> groups = {};
  WeightAverage average = {};  ///< or lookahead, not both
  Lookahead lookahead = {};
};
/// g ← g + weight_decay·p;  v ← αv + (1−α)g²;  centered: a ← αa + (1−α)g, ṽ = v − a², else ṽ = v;
/// d = g/(√ṽ + eps);  momentum: b ← momentum·b + d, p ← p − lr·b, else p ← p − lr·d: as torch.optim.RMSprop
/// is documented (PyTorch 2). State: "square_avg" v, "grad_avg" a, "momentum_buffer" b.
class RMSprop : public Optimizer {
 public:
  RMSprop(std::vector<Parameter> parameters, RMSpropOptions options = {}, Location at = Location::current());

 protected:
  void begin_step(Location at) override;
  void update(std::size_t index, const Tensor& gradient, Bindings& bindings, Location at) override;
  void end_step() override;
  Settings own_settings() const override;
  void set_own_settings(const Settings& settings, Location at) override;
  bool takes_momentum() const override { return options_.momentum > 0; }
  bool limits_gradients() const override { return true; }

 private:
  RMSpropOptions options_;
  std::vector<Tensor> scalars_;
};

/// Multiplies all gradients by min(1, max_norm / (norm + 1e-6)), so that their joint 2-norm is at most
/// `max_norm` > 0; returns the norm before, a scalar. Parameters without a gradient are left out; without any
/// gradient the norm is 0. Recorded, not run; where a step follows, it multiplies inside its own kernel.
Tensor clip_grad_norm(const std::vector<Parameter>& parameters, double max_norm,
                      Location at = Location::current());

/// Limits each element of the gradients to [−limit, limit], limit > 0; NaN stays NaN. Recorded, not run.
void clip_grad_value(const std::vector<Parameter>& parameters, double limit,
                     Location at = Location::current());

struct LossScalerOptions {
  double initial = 65536;
  double growth = 2;                    ///< factor after growth_interval clean steps in a row
  double backoff = 0.5;                 ///< factor after a step that was skipped
  std::int64_t growth_interval = 2000;  ///< ≥ 1
  double minimum = 0x1p-16;             ///< the factor never falls below; f16 reaches 4e9 with it
};

/// Dynamic loss scaling, for f16: gradients of a loss that is multiplied by a large number do not vanish, and
/// where they overflow, the step is left out and the number is halved (Micikevicius et al., "Mixed Precision
/// Training", ICLR 2018).
///
///     ft::optim::LossScaler scaler;
///     scaler.scale(loss).backward();
///     scaler.step(sgd);   // in place of sgd.step()
///
/// Whether to step is decided on the host: a step is two plans, and waits for the gradients. One scaler is
/// one optimizer's: a second one would divide by a factor that the first has changed. Running statistics that
/// moved before something was read (`loss.item()` before step()) stay where they are.
class LossScaler {
 public:
  /// Throws unless 2^-126 ≤ minimum ≤ initial ≤ 2^126, growth > 1, 0 < backoff < 1 and growth_interval ≥ 1.
  explicit LossScaler(LossScalerOptions options = {}, Location at = Location::current());

  /// loss · factor(), recorded. The loss is of a floating dtype.
  Tensor scale(const Tensor& loss, Location at = Location::current()) const;
  /// Divides the gradients of the optimizer's parameters by factor(), then optimizer.step() where all of them
  /// are finite; returns whether so. Where not, nothing is updated, and where factor() is at the minimum
  /// already, that is an Error: no factor helps a loss that is itself not finite. The gradients stay divided.
  bool step(Optimizer& optimizer, Location at = Location::current());

  double factor() const { return factor_; }
  /// Steps since the factor last changed.
  std::int64_t clean_steps() const { return clean_steps_; }
  /// As factor() and clean_steps() gave them, for checkpoints. A factor below the minimum becomes the
  /// minimum.
  void set_state(double factor, std::int64_t clean_steps, Location at = Location::current());
  /// growth, backoff, growth_interval and minimum, for checkpoints; set_settings() throws, and changes
  /// nothing, where the constructor would refuse one.
  Settings settings() const;
  void set_settings(const Settings& settings, Location at = Location::current());

 private:
  LossScalerOptions options_;
  double factor_;
  std::int64_t clean_steps_ = 0;
};

}  // namespace fusetape::optim
