#pragma once
#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fusetape/module.hpp"

/// Modules that own others.
namespace fusetape::nn {

/// Children "0", "1", …, which it owns and does not call: `for (const auto& block : blocks) x = (*block)(x);`
class ModuleList : public Module {
 public:
  ModuleList() = default;

  /// Appends: `list.add(ft::nn::Linear(8, 10))`.
  template <std::derived_from<Module> T>
  T& add(T module, Location at = Location::current()) {
    return static_cast<T&>(append(std::make_unique<T>(std::move(module)), at));
  }
  Module& append(std::unique_ptr<Module> module, Location at = Location::current());
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

  std::size_t size() const { return modules_.size(); }
  auto begin() const { return modules_.begin(); }
  auto end() const { return modules_.end(); }

  /// Which child, and the caller's line, which an operator cannot take by itself.
  struct Index {
    template <WholeNumber T>
    Index(T i, Location where = Location::current()) : number(static_cast<std::int64_t>(i)), at(where) {}
    std::int64_t number;
    Location at;
  };
  /// Throws where there is no such child.
  Module& operator[](Index i);

 private:
  template <class T, class... Arguments>
  T& make(Location at, Arguments&&... arguments) {
    if constexpr (std::constructible_from<T, Arguments..., Location>) {
      return static_cast<T&>(append(std::make_unique<T>(std::forward<Arguments>(arguments)..., at), at));
    } else {
      return static_cast<T&>(append(std::make_unique<T>(std::forward<Arguments>(arguments)...), at));
    }
  }
  /// Of a new child and the one before it, if there is one.
  virtual void joined(Module* before, Module& module, Location at);

  std::vector<std::unique_ptr<Module>> modules_;
};

/// A ModuleList that calls its children one after the other:
///
///     ft::nn::Sequential net{ft::nn::Conv2d({.in = 3, .out = 16, .kernel = 3, .padding = 1}),
///     ft::nn::ReLU()}; net.emplace<ft::nn::Conv2d>({.in = 16, .out = 16, .kernel = 3, .padding = 1});
class Sequential : public ModuleList {
 public:
  Sequential() = default;
  template <std::derived_from<Module>... Modules>
    requires(sizeof...(Modules) > 1 || (!std::derived_from<Modules, Sequential> && ...)) &&
            (sizeof...(Modules) > 0)
  explicit Sequential(Modules... modules) {
    (add(std::move(modules)), ...);
  }

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  void joined(Module* before, Module& module, Location at) override;
};

/// Children by name, which it owns and does not call; in the order in which they were added.
class ModuleDict : public Module {
 public:
  ModuleDict() = default;
  template <std::derived_from<Module> T>
  T& add(const std::string& name, T module, Location at = Location::current()) {
    return static_cast<T&>(append(name, std::make_unique<T>(std::move(module)), at));
  }
  Module& append(const std::string& name, std::unique_ptr<Module> module, Location at = Location::current());
  std::size_t size() const { return modules_.size(); }
  bool contains(const std::string& name) const;
  /// Throws where there is no such child. (child(name) is the same.)
  Module& at(const std::string& name, Location at = Location::current()) { return child(name, at); }

 private:
  std::vector<std::unique_ptr<Module>> modules_;
};

/// body(x) + shortcut(x); without a shortcut, + x. Children "body" and "shortcut".
class Residual : public Module {
 public:
  template <std::derived_from<Module> Body>
    requires(!std::same_as<Body, Residual>)
  explicit Residual(Body body, Location at = Location::current())
      : Residual(std::make_unique<Body>(std::move(body)), nullptr, at) {}
  template <std::derived_from<Module> Body, std::derived_from<Module> Shortcut>
  Residual(Body body, Shortcut shortcut, Location at = Location::current())
      : Residual(std::make_unique<Body>(std::move(body)), std::make_unique<Shortcut>(std::move(shortcut)),
                 at) {}
  /// Throws where body is null.
  Residual(std::unique_ptr<Module> body, std::unique_ptr<Module> shortcut, Location at = Location::current());

 protected:
  Tensor forward(const Tensor& x) override;

 private:
  std::unique_ptr<Module> body_, shortcut_;
};

}  // namespace fusetape::nn
