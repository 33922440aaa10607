// What wrote checkpoint_1_sgd.safetensors and checkpoint_1_adam.safetensors, linked to the library of commit
// bbebf44: the first format of checkpoints. They have to load for ever and are never written again.
#include <fusetape/fusetape.hpp>
#include <string>

namespace ft = fusetape;
using ft::Tensor;

struct Net : ft::nn::Module {
  ft::nn::Conv2d conv{{.in = 3, .out = 4, .kernel = 3, .stride = 2, .padding = 1, .bias = false}};
  ft::nn::BatchNorm2d bn{4};
  ft::nn::Dropout dropout{0.25};
  ft::nn::Linear fc{4, 10};
  Net() {
    register_child("conv", conv);
    register_child("bn", bn);
    register_child("dropout", dropout);
    register_child("fc", fc);
  }
  Tensor forward(const Tensor& x) override { return fc(ft::global_avg_pool(dropout(ft::relu(bn(conv(x)))))); }
};

template <class MakeOptimizer, class MakeSchedule>
void train(const std::string& path, bool scaled, MakeOptimizer make_optimizer, MakeSchedule make_schedule) {
  ft::manual_seed(7);
  Net net;
  auto optimizer = make_optimizer(net);
  auto schedule = make_schedule(optimizer);
  ft::optim::LossScaler scaler({.initial = 1024});
  ft::data::DataLoader loader(ft::data::synthetic_images({.count = 48, .size = 8, .seed = 1}),
                              {.batch = 8, .crop = 1, .flip = true, .seed = 11});
  int step = 0;
  for (const auto& [images, labels] : loader) {
    const Tensor loss = ft::cross_entropy(net(images), labels);
    optimizer.zero_grad();
    if (scaled) {
      scaler.scale(loss).backward();
      scaler.step(optimizer);
    } else {
      loss.backward();
      optimizer.step();
    }
    schedule.step();
    if (++step == 4) break;
  }
  ft::io::save_checkpoint(path, {&net, &optimizer, &schedule, &loader, true, scaled ? &scaler : nullptr},
                          {{"written-by", "bbebf44"}});
}

int main(int, char** arguments) {
  const std::string folder = arguments[1];
  train(
      folder + "/checkpoint_1_sgd.safetensors", false,
      [](Net& net) {
        return ft::optim::SGD(net.parameters(), {.lr = 0.05, .momentum = 0.9, .weight_decay = 5e-4});
      },
      [](auto& optimizer) { return ft::optim::CosineLR(optimizer, {.total_steps = 8}); });
  train(
      folder + "/checkpoint_1_adam.safetensors", true,
      [](Net& net) { return ft::optim::Adam(net.parameters(), {.lr = 0.01}); },
      [](auto& optimizer) { return ft::optim::OneCycleLR(optimizer, {.max_lr = 0.05, .total_steps = 40}); });
}
