// The smallest training loop: ResNet-20 on generated images. Every operation is only recorded; sgd.step()
// plans the whole step, from forward to update, and runs it.
#include <exception>
#include <fusetape/fusetape.hpp>
#include <iostream>

namespace ft = fusetape;

int main() try {
  ft::manual_seed(1);
  ft::data::DataLoader loader(ft::data::synthetic_images({.count = 2'560}),
                              {.batch = 128, .crop = 4, .flip = true});
  auto model = ft::nn::resnet20({.classes = 10});
  ft::optim::SGD sgd(model.parameters(), {.lr = 0.1, .momentum = 0.9, .weight_decay = 5e-4});

  for (auto [images, labels] : loader) {
    ft::Tensor loss = ft::cross_entropy(model(images), labels);
    sgd.zero_grad();
    loss.backward();
    sgd.step();
    std::cout << loss.item() << '\n';
  }

  const ft::Report& report = ft::explain();
  std::cout << "a step is " << report.kernels << " kernels and " << report.tensor_passes
            << " tensor passes\n";
} catch (const std::exception& error) {
  std::cerr << "minimal_loop: " << error.what() << '\n';
  return 1;
}
