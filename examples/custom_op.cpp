// An op of one's own: Swish with a learned gate per channel, y = x·σ(βx). The forward is plain C++, the
// gradient is written with fusetape's ops; gradcheck compares the two, and a small network learns with it.
#include <cmath>
#include <cstdint>
#include <exception>
#include <fusetape/fusetape.hpp>
#include <iostream>
#include <stdexcept>
#include <vector>

namespace ft = fusetape;

namespace {

/// x {N, C}, β {C} → {N, C}
const ft::CustomOp& gated_swish() {
  static const ft::CustomOp op({
      .name = "gated_swish",
      .inputs = 2,
      .shapes = [](const std::vector<ft::TensorSpec>& in) -> std::vector<ft::TensorSpec> {
        const ft::Shape &x = in[0].shape, &beta = in[1].shape;
        if (x.rank() != 2 || beta.rank() != 1 || beta[0] != x[1])
          throw std::invalid_argument("expected x {N, C} and beta {C}");
        return {in[0]};
      },
      .forward =
          [](ft::CustomForward& call) {
            call.typed([&](auto zero) {
              using T = decltype(zero);  // float, or double when gradcheck asks
              const auto x = call.input<T>(0), beta = call.input<T>(1);
              const auto y = call.output<T>(0);
              for (std::size_t i = 0; i < x.size(); ++i)
                y[i] = x[i] / (1 + std::exp(-beta[i % beta.size()] * x[i]));
            });
          },
      .gradient = [](const ft::CustomGradient& call) -> std::vector<ft::Tensor> {
        const ft::Tensor x = call.input(0), beta = call.input(1), g = call.incoming();
        const ft::Tensor gate = ft::sigmoid(beta * x), slope = gate * (1 - gate);
        return {g * (gate + beta * x * slope), ft::sum(g * x * x * slope, {0})};
      },
      .saves_inputs = {0, 1},
  });
  return op;
}

struct Net : ft::nn::Module {
  ft::nn::Linear in{1, 32}, out{32, 1};
  ft::Parameter beta = register_parameter("beta", ft::ones({32}));

  Net() {
    register_child("in", in);
    register_child("out", out);
  }
  ft::Tensor forward(const ft::Tensor& x) override { return out(gated_swish().one({in(x), beta})); }
};

void check_gradient() {
  const auto numbers = [](ft::Shape shape) { return ft::cast(ft::randn(shape), ft::DType::f64); };
  ft::gradcheck([](const std::vector<ft::Tensor>& in) { return gated_swish().one(in); },
                {numbers({5, 3}), numbers({3})});
  std::cout << "gradcheck: the gradient agrees with central differences\n";
}

}  // namespace

int main() try {
  ft::manual_seed(1);
  check_gradient();

  // A damped wave, to be learned from 256 points.
  std::vector<float> positions, heights;
  for (int i = 0; i < 256; ++i) {
    const float x = static_cast<float>(i) / 64 - 2;
    positions.push_back(x);
    heights.push_back(std::sin(3 * x) * std::exp(-x * x / 2));
  }
  const ft::Tensor x = ft::from_vector(positions, {256, 1}), y = ft::from_vector(heights, {256, 1});
  Net net;
  ft::optim::Adam adam(net.parameters(), {.lr = 1e-2});
  for (int step = 1; step <= 1000; ++step) {
    const ft::Tensor loss = ft::mse_loss(net(x), y);
    adam.zero_grad();
    loss.backward();
    adam.step();
    if (step % 200 == 0) std::cout << "step " << step << "  loss " << loss.item() << '\n';
  }

  for (const ft::GroupReport& group : ft::explain().groups) {
    if (group.name == gated_swish().name()) {
      std::cout << "explain(): " << group.name << " runs as " << group.kernel << " in " << group.phase << " ("
                << group.source << "), " << group.tensor_passes << " tensor passes\n";
    }
  }
} catch (const std::exception& error) {
  std::cerr << "custom_op: " << error.what() << '\n';
  return 1;
}
