#pragma once
#include <cstddef>
#include <cstdint>
#include <fusetape/fusetape.hpp>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/networks.hpp"
#include "examples/gan_training.hpp"
#include "examples/mlp_network.hpp"

/// What is measured: whole training steps of a network, or of one block alone. Public headers only, so that
/// tools/bench_diff.py can build it against the library of another revision.
namespace benchmarks {

namespace ft = fusetape;

inline constexpr ft::optim::SGDOptions sgd_options{.lr = 0.01, .momentum = 0.9, .weight_decay = 5e-4};

class Subject {
 public:
  Subject() = default;
  virtual ~Subject() = default;
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;

  /// Forward, backward and update, on the same numbers for the same `index` whoever steps.
  virtual void step(std::size_t index) = 0;
  /// Of the last step, one tensor per parameter (and input of a block).
  virtual std::vector<ft::Tensor> gradients() const = 0;
};

inline std::vector<ft::Tensor> gradients_of(const std::vector<ft::Parameter>& parameters) {
  std::vector<ft::Tensor> out;
  for (const ft::Parameter& parameter : parameters) out.push_back(parameter.grad());
  return out;
}

// ---- a network, on generated images

using Batches = std::vector<ft::data::Batch>;

inline Batches generated_batches(std::int64_t batch, std::int64_t count) {
  ft::data::DataLoader loader(ft::data::synthetic_images({.count = batch * count}), {.batch = batch});
  Batches batches;
  for (const ft::data::Batch& one : loader) batches.push_back(one);
  return batches;
}

class Training : public Subject {
 public:
  Training(const std::string& model, ft::DType precision, std::shared_ptr<const Batches> batches)
      : model_(network(model)),
        sgd_(model_->parameters(), sgd_options),
        precision_(precision),
        batches_(std::move(batches)) {}

  void step(std::size_t index) override {
    const ft::Autocast cast(precision_);
    const auto& [images, labels] = (*batches_)[index % batches_->size()];
    const ft::Tensor loss = ft::cross_entropy((*model_)(images), labels);
    sgd_.zero_grad();
    loss.backward();
    sgd_.step();
  }

  std::vector<ft::Tensor> gradients() const override { return gradients_of(sgd_.parameters()); }

 private:
  std::unique_ptr<ft::nn::Module> model_;
  ft::optim::SGD sgd_;
  ft::DType precision_;
  std::shared_ptr<const Batches> batches_;
};

/// What a network says of a batch, in evaluation mode.
class Evaluation : public Subject {
 public:
  Evaluation(const std::string& model, ft::DType precision, std::shared_ptr<const Batches> batches)
      : model_(network(model)), precision_(precision), batches_(std::move(batches)) {
    model_->eval();
  }

  void step(std::size_t index) override {
    const ft::NoGrad no_history;
    const ft::Autocast cast(precision_);
    logits_ = (*model_)((*batches_)[index % batches_->size()].images);
    ft::materialize({logits_});
  }

  /// There is no backward; the logits are what two sides are compared by.
  std::vector<ft::Tensor> gradients() const override { return {logits_}; }

 private:
  std::unique_ptr<ft::nn::Module> model_;
  ft::DType precision_;
  std::shared_ptr<const Batches> batches_;
  ft::Tensor logits_;
};

// ---- small training steps with Adam

inline ft::Tensor random_points(std::int64_t batch) {
  const ft::Tensor points = ft::randn({batch, 2});
  ft::materialize({points});
  return points;
}

class MlpTraining : public Subject {
 public:
  MlpTraining(ft::DType precision, std::int64_t batch)
      : precision_(precision), points_(random_points(batch)), arms_(ft::zeros({batch}, ft::DType::i64)) {}

  void step(std::size_t) override {
    const ft::Autocast cast(precision_);
    const ft::Tensor loss = ft::cross_entropy(model_(points_), arms_);
    adam_.zero_grad();
    loss.backward();
    adam_.step();
  }
  std::vector<ft::Tensor> gradients() const override { return gradients_of(model_.parameters()); }

 private:
  examples::Mlp model_;
  ft::optim::Adam adam_{model_.parameters()};
  ft::DType precision_;
  ft::Tensor points_, arms_;
};

/// One of the two turns.
class GanTraining : public Subject {
 public:
  GanTraining(bool discriminator, ft::DType precision, std::int64_t batch)
      : gan_(batch), discriminator_(discriminator), precision_(precision), points_(random_points(batch)) {}

  void step(std::size_t) override {
    const ft::Autocast cast(precision_);
    discriminator_ ? gan_.train_discriminator(points_) : gan_.train_generator();
  }
  std::vector<ft::Tensor> gradients() const override {
    return gradients_of(discriminator_ ? gan_.discriminator_parameters() : gan_.generator_parameters());
  }

 private:
  examples::Gan gan_;
  bool discriminator_;
  ft::DType precision_;
  ft::Tensor points_;
};

// ---- one block of ResNet-20's first stage

inline constexpr std::int64_t channels = 16, size = 32;

/// relu(conv(x) + bias)
struct ConvBiasRelu : ft::nn::Module {
  static constexpr std::size_t inputs = 1;
  ft::nn::Conv2d conv{{.in = channels, .out = channels, .kernel = 3, .padding = 1}};

  ConvBiasRelu() { register_child("conv", conv); }
  ft::Tensor apply(const std::vector<ft::Tensor>& in) {
    const ft::nn::ModuleScope scope(*this);
    return ft::relu(conv(in[0]));
  }
};

/// relu(batch_norm(x) + z)
struct BnAddRelu : ft::nn::Module {
  static constexpr std::size_t inputs = 2;
  ft::nn::BatchNorm2d bn{channels};

  BnAddRelu() { register_child("bn", bn); }
  ft::Tensor apply(const std::vector<ft::Tensor>& in) {
    const ft::nn::ModuleScope scope(*this);
    return ft::relu(bn(in[0]) + in[1]);
  }
};

/// Backward starts at a given gradient of the block's output, so that no loss adds passes of its own, and
/// goes to every parameter and input. Inputs and gradient are of the precision, as inside a network.
template <class Module>
class Block : public Subject {
 public:
  Block(ft::DType precision, std::int64_t batch)
      : sgd_(module_.parameters(), sgd_options), precision_(precision) {
    const ft::NoGrad no_history;
    for (std::size_t i = 0; i < Module::inputs; ++i) inputs_.push_back(random_values(batch));
    for (ft::Tensor& input : inputs_) input = ft::variable(input);
    seed_ = random_values(batch);
  }

  void step(std::size_t) override {
    const ft::Autocast cast(precision_);
    input_gradients_.clear();
    sgd_.zero_grad();
    backward();
    sgd_.step();
  }

  std::vector<ft::Tensor> gradients() const override {
    std::vector<ft::Tensor> out = input_gradients_;
    for (const ft::Parameter& parameter : sgd_.parameters()) out.push_back(parameter.grad());
    return out;
  }

 private:
  ft::Tensor random_values(std::int64_t batch) const {
    const ft::Tensor values = ft::cast(ft::randn({batch, size, size, channels}), precision_);
    ft::materialize({values});
    return values;
  }

  /// Ends before the update, so that no handle to an old version of a parameter is left then.
  void backward() {
    std::vector<ft::Tensor> sources = inputs_;
    std::vector<ft::Parameter> parameters = module_.parameters();
    for (const ft::Parameter& parameter : parameters) sources.push_back(parameter.value());
    std::vector<ft::Tensor> gradients = ft::grad({module_.apply(inputs_)}, sources, {seed_});
    for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].set_grad(gradients[inputs_.size() + i]);
    gradients.resize(inputs_.size());
    input_gradients_ = std::move(gradients);
  }

  Module module_;
  ft::optim::SGD sgd_;
  ft::DType precision_;
  std::vector<ft::Tensor> inputs_, input_gradients_;
  ft::Tensor seed_;
};

inline const std::vector<std::string> subject_names{"resnet20",
                                                    "resnet56",
                                                    "resnet18",
                                                    "mobilenet_v2",
                                                    "mobilenet_v2_silu",
                                                    "bottleneck",
                                                    "vgg",
                                                    "vgg_without_norms",
                                                    "inception",
                                                    "vit",
                                                    "convnext",
                                                    "bottleneck_small",
                                                    "mobilenet_v2_small",
                                                    "conv_bias_relu",
                                                    "bn_add_relu",
                                                    "mlp",
                                                    "gan_discriminator",
                                                    "gan_generator"};

/// Makes subjects that start from the same state, whenever they are made.
class SubjectFactory {
 public:
  SubjectFactory(std::string model, ft::DType precision, std::int64_t batch, std::uint64_t seed,
                 bool evaluate = false)
      : model_(std::move(model)), precision_(precision), batch_(batch), seed_(seed), evaluate_(evaluate) {}

  std::unique_ptr<Subject> make() {
    ft::manual_seed(seed_);
    if (std::unique_ptr<Subject> subject = make_small()) {
      if (evaluate_) throw std::runtime_error("--evaluate takes a network for images, not " + model_);
      return subject;
    }
    // On a device each of them keeps a place of its own, and so takes a graph of its own: one, there.
    const std::int64_t count = ft::backend_name() == "cuda" ? 1 : 4;
    if (batches_ == nullptr) batches_ = std::make_shared<const Batches>(generated_batches(batch_, count));
    if (evaluate_) return std::make_unique<Evaluation>(model_, precision_, batches_);
    return std::make_unique<Training>(model_, precision_, batches_);
  }

 private:
  /// What takes no images; nullptr: a network for images.
  std::unique_ptr<Subject> make_small() const {
    if (model_ == "conv_bias_relu") return std::make_unique<Block<ConvBiasRelu>>(precision_, batch_);
    if (model_ == "bn_add_relu") return std::make_unique<Block<BnAddRelu>>(precision_, batch_);
    if (model_ == "mlp") return std::make_unique<MlpTraining>(precision_, batch_);
    if (model_ == "gan_discriminator") return std::make_unique<GanTraining>(true, precision_, batch_);
    if (model_ == "gan_generator") return std::make_unique<GanTraining>(false, precision_, batch_);
    return nullptr;
  }

  std::string model_;
  ft::DType precision_;
  std::int64_t batch_;
  std::uint64_t seed_;
  bool evaluate_;
  std::shared_ptr<const Batches> batches_;
};

}  // namespace benchmarks
