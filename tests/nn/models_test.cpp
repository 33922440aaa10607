// The networks of fusetape/models: their gradients beside PyTorch's (tests/data/models_pytorch.py), and what
// they refuse.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
namespace nn = ft::nn;
using namespace fusetape::tests;
using ft::Tensor;

namespace {

constexpr std::int64_t samples = 64;
constexpr std::uint64_t images = 1u << 20;

/// `hashed` of the script.
double hashed(std::uint64_t parameter, std::uint64_t element) {
  std::uint64_t z = (parameter << 40) + element;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<double>(z >> 40) * 0x1p-23 - 1;
}

Tensor generated(std::uint64_t parameter, const ft::Shape& shape, double first, double second) {
  std::vector<float> values(static_cast<std::size_t>(shape.elements()));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = static_cast<float>(first + second * hashed(parameter, i));
  return ft::from_vector(values, shape);
}

template <class Model>
std::function<std::unique_ptr<nn::Module>()> maker(typename Model::Options options) {
  return [options] { return std::make_unique<Model>(options); };
}
std::function<std::unique_ptr<nn::Module>()> maker(nn::ResNet (*make)(nn::ImageNetOptions, ft::Location)) {
  return [make] {
    return std::make_unique<nn::ResNet>(make({.activation = ft::gelu}, ft::Location::current()));
  };
}

struct Network {
  const char* name;
  std::int64_t count, size;
  std::function<std::unique_ptr<nn::Module>()> make;
};
const Network networks[] = {
    {"resnet18", 4, 64, maker(nn::imagenet_resnet18)},
    {"resnet34", 4, 64, maker(nn::imagenet_resnet34)},
    {"resnet50", 4, 64, maker(nn::imagenet_resnet50)},
    {"wide_resnet", 4, 16, maker<nn::WideResNet>({.depth = 16, .widen = 2})},
    {"mobilenet_v2", 4, 64, maker<nn::MobileNetV2>({.dropout = 0})},
    {"vgg16", 4, 32, maker<nn::VGG>({.norms = false})},
    {"vgg16_norms", 4, 32, maker<nn::VGG>({})},
    {"vgg16_hidden", 4, 32, maker<nn::VGG>({.hidden = 32, .dropout = 0})},
    {"unet", 2, 16, maker<nn::UNet>({.classes = 3, .width = 8, .depth = 2})},
    {"convnext", 4, 32, maker<nn::ConvNeXt>({.blocks = {2, 2}, .width = 32, .patch = 4})},
    {"vit", 4, 32, maker<nn::ViT>({.patch = 8, .width = 48, .depth = 2, .heads = 3, .hidden = 96})},
    {"airbench", 8, 32, maker<nn::Airbench>({.width = 16})},
};

/// The script's loss: logits {…, classes}.
Tensor loss_of(nn::Module& model, const Network& network) {
  const ft::Shape shape{network.count, network.size, network.size, 3};
  const Tensor logits = model(generated(images, shape, 0, 1.5)), rows = logits.reshape({-1, logits.size(-1)});
  std::vector<std::int64_t> labels(static_cast<std::size_t>(rows.size(0)));
  for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = static_cast<std::int64_t>(i) % rows.size(1);
  return ft::cross_entropy(rows, ft::from_vector(labels, {rows.size(0)}));
}

/// How far a gradient's norm and samples are from PyTorch's, over the norm and the largest sample, or
/// `least`.
double distance(const std::vector<float>& gradient, double norm, const float* expected, double least) {
  double square = 0, largest = least, apart = 0;
  for (const float g : gradient) square += double{g} * double{g};
  const auto count = static_cast<std::int64_t>(gradient.size());
  const std::int64_t taken = std::min(count, samples);
  for (std::int64_t j = 0; j < taken; ++j) {
    const float got = gradient[static_cast<std::size_t>(count < samples ? j : j * count / samples)];
    largest = std::max(largest, double{std::abs(expected[j])});
    apart = std::max(apart, std::abs(double{got} - double{expected[j]}));
  }
  return std::max(apart / largest, std::abs(std::sqrt(square) - norm) / std::max(norm, least));
}

void compare(const Network& network, const std::map<std::string, Tensor>& file) {
  const auto stored = [&](const char* key) {
    return file.at(std::string(network.name) + "." + key).to_vector();
  };
  const std::unique_ptr<nn::Module> model = network.make();
  const auto parameters = model->named_parameters();
  const std::vector<float> rule = stored("rule"), norms = stored("norm"), expected = stored("samples");
  REQUIRE(norms.size() == parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const ft::Parameter& p = parameters[i].second;
    p.set_data(generated(i, p.shape(), double{rule[2 * i]}, double{rule[2 * i + 1]}));
  }
  const Tensor loss = loss_of(*model, network);
  loss.backward();
  // Behind a bias that a batch norm takes away again there is no gradient but rounding.
  const double least = 1e-4 * double{*std::max_element(norms.begin(), norms.end())};
  CHECK(loss.item() == doctest::Approx(stored("loss")[0]).epsilon(1e-4));
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto& [name, p] = parameters[i];
    const Tensor gradient = p.grad();
    const std::vector<float> values =
        gradient.defined() ? gradient.to_vector()
                           : std::vector<float>(static_cast<std::size_t>(p.shape().elements()));
    const double apart =
        distance(values, double{norms[i]}, expected.data() + static_cast<std::int64_t>(i) * samples, least);
    CHECK_MESSAGE(apart < 1e-3, name << " is " << apart << " away");
  }
}

}  // namespace

TEST_CASE("the networks have PyTorch's gradients") {
  const auto file = ft::io::load_tensors(FUSETAPE_TESTS_DIR "/data/models_pytorch.safetensors").tensors;
  for (const Network& network : networks) {
    CAPTURE(std::string(network.name));
    compare(network, file);
  }
}

TEST_CASE("the networks have the published numbers of parameters") {
  CHECK(nn::imagenet_resnet18().parameter_count() == 11'689'512);
  CHECK(nn::imagenet_resnet50().parameter_count() == 25'557'032);
  CHECK(nn::MobileNetV2({}).parameter_count() == 3'504'872);
  CHECK(nn::WideResNet({}).parameter_count() == 36'479'194);
  CHECK(nn::ConvNeXt({.blocks = {3, 3, 9, 3}, .width = 96, .patch = 4, .classes = 1000}).parameter_count() ==
        28'589'128);
  CHECK(nn::Airbench({}).parameter_count() == 1'972'792);
}

TEST_CASE("a mobile network for small images keeps their size twice as long") {
  nn::MobileNetV2 small({.width = 0.25, .classes = 10, .small_images = true});
  std::vector<ft::Shape> shapes;
  for (const char* path : {"stem", "blocks.2", "blocks.5"}) {
    small.child(path).register_forward_hook([&](nn::Module&, const Tensor&, const Tensor& y) {
      shapes.push_back(y.shape());
      return Tensor();
    });
  }
  CHECK(small(ft::zeros({2, 32, 32, 3})).shape() == ft::Shape{2, 10});
  CHECK(shapes == std::vector<ft::Shape>{{2, 32, 32, 8}, {2, 32, 32, 8}, {2, 16, 16, 8}});
}

TEST_CASE("drop_path and dropout act in training only") {
  nn::ConvNeXt convnext({.blocks = {1, 1}, .width = 8, .drop_path = 0.5});
  convnext.parameter("stages.1.2.scale").set_data(ft::ones({16}));  // the block counts for something
  nn::WideResNet wide({.depth = 10, .widen = 1, .dropout = 0.5});
  nn::ViT vit({.size = 8, .width = 8, .depth = 1, .heads = 1, .hidden = 8, .dropout = 0.5});
  const Tensor x = ft::randn({16, 8, 8, 3});
  for (nn::Module* const model : {static_cast<nn::Module*>(&convnext), static_cast<nn::Module*>(&wide),
                                  static_cast<nn::Module*>(&vit)}) {
    for (const bool training : {true, false}) {
      model->train(training);
      CHECK(((*model)(x).to_vector() != (*model)(x).to_vector()) == training);
    }
  }
}

TEST_CASE("models refuse sizes that fit nothing") {
  nn::UNet unet({.width = 4, .depth = 3});
  nn::ViT vit({.width = 12, .depth = 1, .hidden = 24});
  struct Row {
    const char* says;
    std::function<void()> call;
  };
  const Row rows[] = {
      {"[UNet] expected height and width that are multiples of 8, got {1, 16, 20, 3}",
       [&] {
         unet(ft::zeros({1, 16, 20, 3}));
       }},
      {"[UNet] expected a depth of 1 to 10, got 0", [] { nn::UNet({.depth = 0}); }},
      {"[ViT] expected images of 32x32, got {1, 16, 32, 3}",
       [&] {
         vit(ft::zeros({1, 16, 32, 3}));
       }},
      {"[ViT] expected a size that is a multiple of the patch, at most 1024 of it, got 30",
       [] { nn::ViT({.size = 30}); }},
      {"[TransformerBlock] expected heads that divide the width, got 5", [] { nn::ViT({.heads = 5}); }},
      {"[WideResNet] expected a depth of 6n + 4 ≥ 10, got 27", [] { nn::WideResNet({.depth = 27}); }},
      {"[WideResNet] expected widen ≥ 1", [] { nn::WideResNet({.widen = 0}); }},
      {"[MobileNetV2] expected width > 0", [] { nn::MobileNetV2({.width = -1}); }},
      {"[MobileNetV2] expected classes ≥ 1", [] { nn::MobileNetV2({.classes = 0}); }},
      {"[VGG] expected a depth of 11, 13, 16 or 19, got 12", [] { nn::VGG({.depth = 12}); }},
      {"[VGG] expected hidden ≥ 0", [] { nn::VGG({.hidden = -1}); }},
      {"[ConvNeXt] expected at least one stage", [] { nn::ConvNeXt({.blocks = {}}); }},
      {"[ConvNeXt] expected patch ≥ 1", [] { nn::ConvNeXt({.patch = 0}); }},
      {"[Airbench] expected width ≥ 1", [] { nn::Airbench({.width = 0}); }},
  };
  for (const Row& row : rows) {
    CAPTURE(std::string(row.says));
    CHECK(contains(message_of(row.call), row.says));
  }
}
