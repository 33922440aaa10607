// One training step of a ResNet-8 against the numbers that PyTorch computed in double precision
// (tests/data/resnet8_step.py).
#include <doctest/doctest.h>

#include <map>
#include <string>

#include "compare.hpp"
#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::Tensor;

namespace {

using Tensors = std::map<std::string, Tensor>;

/// Of the largest number of a tensor. The file's numbers are rounded to f32, too.
constexpr double tolerance = 2e-5;

void check_close(const std::string& name, const Tensor& got, const Tensors& expected) {
  REQUIRE_MESSAGE(expected.count(name) == 1, name);
  REQUIRE_MESSAGE(got.shape() == expected.at(name).shape(), name);
  const double apart = difference(got.to_vector<double>(), expected.at(name).to_vector<double>(), 1e-3);
  CHECK_MESSAGE(apart <= tolerance, name << " is " << apart << " away");
}

/// Visits parameters and running statistics by name.
template <class Visit>
void for_each_cell(const ft::nn::Module& model, Visit&& visit) {
  for (auto [name, parameter] : model.named_parameters()) visit(name, static_cast<ft::Cell&>(parameter));
  for (auto [name, buffer] : model.named_buffers()) visit(name, buffer);
}

void take_the_step(const Tensors& file) {
  auto model = ft::nn::resnet_cifar({.depth = 8, .classes = 10, .width = 4});
  std::size_t cells = 0;
  for_each_cell(model, [&](const std::string& name, ft::Cell& cell) {
    cell.set_data(file.at("param." + name));
    ++cells;
  });
  REQUIRE(3 * cells - model.named_buffers().size() ==
          file.size() - 4);  // param, after; and grad of what is no buffer

  ft::optim::SGD sgd(model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 5e-4});
  const Tensor logits = model(file.at("images")), loss = ft::cross_entropy(logits, file.at("labels"));
  sgd.zero_grad();
  loss.backward();
  sgd.step();

  check_close("logits", logits, file);
  check_close("loss", loss, file);
  for (const auto& [name, parameter] : model.named_parameters())
    check_close("grad." + name, parameter.grad(), file);
  for_each_cell(model, [&](const std::string& name, const ft::Cell& cell) {
    check_close("after." + name, cell.value(), file);
  });
}

}  // namespace

TEST_CASE("a step of ResNet-8 gives PyTorch's loss, gradients, parameters and running statistics") {
  const Tensors file = ft::io::load_tensors(FUSETAPE_TESTS_DIR "/data/resnet8_step.safetensors").tensors;
  for (const char* name : {"cpu", "reference"}) {
    for (const bool fusion : {true, false}) {
      CAPTURE(std::string(name));
      CAPTURE(fusion);
      const OnBackend backend(name);
      const Fusion mode(fusion);
      take_the_step(file);
    }
  }
}
