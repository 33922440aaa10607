#include <fusetape/fusetape.hpp>
#include <iostream>

namespace ft = fusetape;

int main() {
  ft::Tensor t = ft::from_vector({1, 2, 3}, {3});
  std::cout << ft::sum(t * 2.0).item() << '\n';
}
