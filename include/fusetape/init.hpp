#pragma once
#include <cstdint>

#include "fusetape/size2d.hpp"
#include "fusetape/tensor.hpp"

/// Initial values, drawn on the host from this thread's generator: the same seed gives the same bits. All are
/// f32. A weight's first axis is its outputs, its last one its inputs (of a group): {out, in},
/// {out, kh, kw, in/groups}.
///
///     net.fc.weight().set_data(ft::nn::xavier_uniform(net.fc.weight().shape()));
namespace fusetape::nn {

/// Uniform in [low, high], finite numbers of f32 (high only where rounding makes it).
Tensor uniform(const Shape& shape, double low, double high, Location at = Location::current());
/// Normal; a finite mean, a finite deviation ≥ 0.
Tensor normal(const Shape& shape, double mean = 0, double deviation = 1, Location at = Location::current());
/// Normal around 0, from the part within ±cut deviations; 0 < cut ≤ 5. (Its deviation is less than
/// `deviation`: 0.88 of it with a cut of 2.)
Tensor truncated_normal(const Shape& shape, double deviation, double cut = 2,
                        Location at = Location::current());
/// Normal with standard deviation √(2 / fan_out), for weights before a ReLU (He et al. 2015).
Tensor kaiming_normal(const Shape& shape, std::int64_t fan_out, Location at = Location::current());
/// Of deviation gain·√(2 / (fan_in + fan_out)), uniform or normal; the fans are the elements over the first
/// extent and over the last. At least two axes. (Glorot, Bengio 2010.)
Tensor xavier_uniform(const Shape& shape, double gain = 1, Location at = Location::current());
Tensor xavier_normal(const Shape& shape, double gain = 1, Location at = Location::current());
/// gain times a random matrix {first extent, all others} whose rows are orthonormal, or its columns, where
/// they are fewer (Saxe, McClelland, Ganguli 2014). At least two axes.
Tensor orthogonal(const Shape& shape, double gain = 1, Location at = Location::current());

/// Filters {2·kh·kw·C, kh, kw, C} whose results over the patches of such images {N, H, W, C} (f32) are not
/// correlated and have mean square λ/(λ + eps): the eigenvectors of the patches' second moments, over √(λ +
/// eps), the largest λ first, and then all of them negated (Page, "How to Train Your ResNet 8", 2019). eps >
/// 0. Runs what is pending.
Tensor whitening(const Tensor& images, Size2d kernel, double eps, Location at = Location::current());

}  // namespace fusetape::nn
