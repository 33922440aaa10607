#pragma once
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
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
class Module;

/// Called after forward(), with its input and result; what it returns replaces the result (an undefined
/// tensor: it stays as it is).
using ForwardHook = std::function<Tensor(Module& module, const Tensor& input, const Tensor& output)>;

/// Names a registered ForwardHook. Dropping the handle leaves the hook in place.
class ForwardHookHandle {
 public:
  ForwardHookHandle() = default;
  /// The hook is not called any more. Harmless when the hook, or its module, is gone already.
  void remove();

 private:
  friend class Module;
  struct Hooks;
  std::weak_ptr<Hooks> hooks_;
  std::uint64_t id_ = 0;
};

/// A part of a model. Subclasses register what they own in their constructors and override forward(); with
/// several inputs or results they derive from ModuleOf. Not copied. Moved freely: what was registered stays
/// so, wherever parent and children go: a name goes with its module, so that a child is replaced by
/// assignment to it, never by std::swap or std::exchange, which would take the name along. A module that
/// another is assigned to is replaced in its parent:
///
///     struct Net : ft::nn::Module {
///       ft::nn::Conv2d conv{{.in = 3, .out = 8, .kernel = 3}};
///       ft::nn::Linear fc{8, 10};
///       Net() { register_child("conv", conv), register_child("fc", fc); }
///       ft::Tensor forward(const ft::Tensor& x) override { return
///       fc(ft::global_avg_pool(ft::relu(conv(x)))); }
///     };
///     Net net;
///     net.fc = ft::nn::Linear(8, 100);  // "fc" is this one from now on
class Module {
 public:
  Module();
  virtual ~Module();
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// forward(x), with everything it records known by this module's path and the caller's line; then the
  /// forward hooks. A module that runs inside another one has to be registered, with any module, or borrowed
  /// by the other: otherwise it throws, as it would be neither trained nor saved nor switched to evaluation.
  Tensor operator()(const Tensor& x, Location at = Location::current());

  /// Own parameters first, then the children's, in the order of registration; a shared one once.
  std::vector<Parameter> parameters() const;
  std::vector<std::pair<std::string, Parameter>> named_parameters() const;
  std::vector<std::pair<std::string, Cell>> named_buffers() const;
  std::vector<std::pair<std::string, Module*>> named_children() const;
  std::int64_t parameter_count() const;

  /// By path from here: `net.child("stages.1.0")`, `net.parameter("fc.weight")`. Throws, and names those that
  /// there are, where there is none.
  Module& child(const std::string& path, Location at = Location::current());
  Parameter parameter(const std::string& path, Location at = Location::current()) const;
  /// The same where it is known what it is: `net.child<Conv2d>("conv1").weight()`. Throws where it is none.
  template <std::derived_from<Module> T>
  T& child(const std::string& path, Location at = Location::current()) {
    Module& found = child(path, at);
    T* const typed = dynamic_cast<T*>(&found);
    if (typed == nullptr) fail_type(found, path, at);
    return *typed;
  }
  /// Calls `visit` with every child, children's children first, and then with this module.
  void apply(const std::function<void(Module&)>& visit);

  /// Training mode, here and in every child: batch norm takes the batch's statistics, dropout drops.
  void train(bool on = true);
  void eval() { train(false); }
  bool is_training() const;
  void zero_grad();
  /// Freezes every parameter, or lets it be trained again.
  void set_requires_grad(bool on);

  /// Hooks are called in the order of registration, inside the module's scope: what they record is its own.
  /// A module that takes or gives more than one tensor throws when it is called with one.
  ForwardHookHandle register_forward_hook(ForwardHook hook, Location at = Location::current());

  /// "stages.1.0.conv2"; empty for the outermost module.
  const std::string& path() const;
  /// "Conv2d", "Activation<relu>": the type of the object, without its namespaces.
  std::string type_name() const;

 protected:
  /// Whoever uses a module that was moved from gets an Error. Protected, as the base alone moves no model.
  Module(Module&& other) noexcept;
  /// Throws, and changes nothing, where `other` contains this module's parent.
  Module& operator=(Module&& other);  // NOLINT(performance-noexcept-move-constructor): it may refuse

  virtual Tensor forward(const Tensor& x);

  Parameter register_parameter(const std::string& name, const Tensor& value,
                               Location at = Location::current());
  /// State that is saved but not trained.
  Cell register_buffer(const std::string& name, const Tensor& value, Location at = Location::current());
  /// The child is a member of this module, or owned by one. Where it is destroyed first, this module throws
  /// when it next looks for it.
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

  // For ModuleOf.
  Tensor after_hooks(const Tensor& x, Tensor y);
  void refuse_hooks(Location at) const;

 private:
  friend class ModuleScope;
  friend class BatchNormFolding;
  struct State;
  State& state() const;
  [[noreturn]] void fail_type(const Module& found, const std::string& path, Location at) const;
  void check_name(const std::string& name, Location at) const;
  void check_has_owner(Location at) const;

  std::unique_ptr<State> state_;  ///< where it is does not change when the module moves; null: moved from
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

/// A module whose forward() takes up to four things, tensors or not, and gives what it likes: a call of the
/// module is a call of that.
///
///     struct Scorer : ft::nn::ModuleOf<Scorer> {
///       ft::nn::Linear first{8, 4}, second{6, 4};
///       Scorer() { register_child("first", first), register_child("second", second); }
///       std::pair<ft::Tensor, ft::Tensor> forward(const ft::Tensor& a, const ft::Tensor& b) {
///         return {first(a), second(b)};
///       }
///     };
///     auto [x, y] = scorer(a, b);
template <class Derived>
class ModuleOf : public Module {
 public:
  template <class A>
  decltype(auto) operator()(A&& a, Location at = Location::current()) {
    return call(at, std::forward<A>(a));
  }
  template <class A, class B>
    requires(!std::same_as<std::remove_cvref_t<B>, Location>)
  decltype(auto) operator()(A&& a, B&& b, Location at = Location::current()) {
    return call(at, std::forward<A>(a), std::forward<B>(b));
  }
  template <class A, class B, class C>
    requires(!std::same_as<std::remove_cvref_t<C>, Location>)
  decltype(auto) operator()(A&& a, B&& b, C&& c, Location at = Location::current()) {
    return call(at, std::forward<A>(a), std::forward<B>(b), std::forward<C>(c));
  }
  template <class A, class B, class C, class D>
    requires(!std::same_as<std::remove_cvref_t<D>, Location>)
  decltype(auto) operator()(A&& a, B&& b, C&& c, D&& d, Location at = Location::current()) {
    return call(at, std::forward<A>(a), std::forward<B>(b), std::forward<C>(c), std::forward<D>(d));
  }

 private:
  template <class... Inputs>
  decltype(auto) call(Location at, Inputs&&... inputs) {
    const ModuleScope scope(*this, at);
    Derived& derived = static_cast<Derived&>(*this);
    using Result = decltype(derived.forward(std::forward<Inputs>(inputs)...));
    if constexpr (std::same_as<Result, Tensor> &&
                  (std::convertible_to<Inputs, Tensor> && ... && (sizeof...(Inputs) == 1))) {
      const Tensor x(inputs...);
      return after_hooks(x, derived.forward(x));
    } else {
      refuse_hooks(at);
      return derived.forward(std::forward<Inputs>(inputs)...);
    }
  }
};

}  // namespace fusetape::nn
