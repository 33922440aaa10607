// oneDNN's AMX kernels are not asked for: version 3.2 has known faults in them. FUSETAPE_ISA=avx2, which
// CMake sets for a second run of some tests, leaves AVX-512 unused, too.
#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "fusetape/fusetape.hpp"
#include "helpers.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Tensor;

namespace {

bool cpu_has_amx() {
  std::ifstream info("/proc/cpuinfo");
  return contains({std::istreambuf_iterator<char>(info), std::istreambuf_iterator<char>()}, "amx_tile");
}

Tensor images(const ft::Shape& shape) { return ft::cast(ft::randn(shape), DType::bf16); }

}  // namespace

TEST_CASE("bf16 convolutions and products take no AMX kernel, and explain() says so") {
  const ConvBy direct(ft::ConvAlgorithm::direct);
  const Tensor x = ft::variable(images({2, 16, 16, 64})), w = ft::variable(images({64, 3, 3, 64}));
  const Tensor m = ft::variable(images({64, 256}));
  ft::materialize();
  const Tensor y = ft::relu(ft::conv2d(x, w, {.padding = {1, 1}}));
  const Tensor product = ft::matmul(m, m, {.transpose_b = true});
  const std::vector<Tensor> gradients =
      ft::grad({ft::sum(ft::cast(y, DType::f32)) + ft::sum(ft::cast(product, DType::f32))}, {x, w, m});
  ft::materialize();
  int onednn = 0;
  for (const ft::GroupReport& group : ft::explain().groups) {
    CAPTURE(group.kernel);
    onednn += contains(group.kernel, "onednn") ? 1 : 0;
    CHECK_FALSE(contains(group.kernel, "amx"));
  }
  CHECK(onednn >= 3);
  const std::string said = ft::explain().instructions;
  const bool only_avx2 = std::getenv("FUSETAPE_ISA") != nullptr;
  CHECK(contains(said, "up to avx512_core_bf16") == (cpu_has_amx() && !only_avx2));
  CHECK(contains(said, "oneDNN's and our own kernels up to avx2") == only_avx2);
  CHECK(contains(ft::explain().to_string(), "instructions: oneDNN") == (cpu_has_amx() || only_avx2));
  if (only_avx2) {
    CHECK(contains(ft::cpu_name(), "AVX2"));
    for (const ft::GroupReport& group : ft::explain().groups) CHECK_FALSE(contains(group.kernel, "avx512"));
  }
  CHECK(contains(ft::explain().to_json(), "\"instructions\": \"" + said));
}
