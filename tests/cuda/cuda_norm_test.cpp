// Batch norm on the device: which groups run there, in which shapes.
#include <doctest/doctest.h>

#include "on_double.hpp"
#include "tests/ops/op_runs.hpp"

namespace ft = fusetape;
using namespace fusetape::tests;
using ft::DType;
using ft::Tensor;

namespace {

/// The kernels of the last run whose names begin so.
int kernels_named(const std::string& begin) {
  int count = 0;
  for (const ft::GroupReport& group : ft::explain().groups)
    count += group.kernel.rfind(begin, 0) == 0 ? 1 : 0;
  return count;
}

/// Σ relu(batch_norm(x) + z)·w and its gradients: loss, dx, dγ, dβ, dz.
std::vector<Numbers> step(const ft::Shape& shape, DType dtype) {
  ft::manual_seed(7);
  const std::int64_t channels = shape.back();
  std::vector<Tensor> in;
  for (const ft::Shape& of : {shape, ft::Shape{channels}, ft::Shape{channels}, shape}) {
    const Tensor values = ft::randn(of) * 2 + 1;
    in.push_back(ft::variable(of.rank() == 1 ? values : ft::cast(values, dtype)));
  }
  const Tensor weights = ft::cast(ft::randn(shape), dtype);
  ft::materialize();
  Tensor loss = ft::sum(ft::relu(ft::batch_norm(in[0], in[1], in[2]) + in[3]) * weights);
  std::vector<Tensor> out = ft::grad({loss}, in);
  out.push_back(loss);
  ft::materialize();
  std::vector<Numbers> numbers;
  for (const Tensor& one : out) numbers.push_back(one.to_vector<double>());
  return numbers;
}

}  // namespace

TEST_CASE("relu(batch_norm(x) + z) is two groups of device kernels in every shape and floating dtype") {
  const ft::Shape shapes[] = {{2, 1, 1, 1},  {2, 7, 5, 3},   {1, 7, 5, 17}, {4, 5, 3, 24}, {2, 1, 1, 8},
                              {3, 4, 4, 16}, {2, 3, 2, 520}, {70, 9, 9, 8}, {33, 40}};
  const std::pair<DType, double> dtypes[] = {{DType::f32, 2e-5}, {DType::bf16, 0.05}, {DType::f16, 0.008}};
  for (const ft::Shape& shape : shapes) {
    for (const auto& row : dtypes) {
      const auto& dtype = row.first;
      const auto& tolerance = row.second;
      std::vector<Numbers> expected;
      {
        const OnBackend reference("reference");
        expected = step(shape, dtype);
      }
      const OnDouble on_double;
      const std::vector<Numbers> got = step(shape, dtype);
      INFO(ft::to_string(shape), " ", std::string(name_of(dtype)));
      CHECK(kernels_named("cuda:batch_norm_relu") == 2);
      for (std::size_t i = 0; i < got.size(); ++i) CHECK(difference(got[i], expected[i]) <= tolerance);
    }
  }
}
