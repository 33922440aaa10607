#pragma once
#include <vector>

/// By what the pixels of known data sets are normalised.
namespace fusetape::data {

/// Per channel, of the training images' pixels in [0, 1].
struct Normalisation {
  std::vector<double> mean, stddev;
};

inline Normalisation cifar10_normalisation() { return {{0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}}; }
inline Normalisation cifar100_normalisation() { return {{0.5071, 0.4865, 0.4409}, {0.2673, 0.2564, 0.2762}}; }

}  // namespace fusetape::data
