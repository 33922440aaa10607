#pragma once
#include "backends/cpu/conv/winograd/weight_gradient.hpp"

/// The largest error of a result as a part of its largest value, as far as a shape tells.
///
/// B. Barabasz, A. Anderson, K. M. Soodhalter and D. Gregg, "Error analysis and improving the accuracy of
/// Winograd convolution for deep neural networks" (ACM TOMS 46(4), 2020, arXiv:1803.10986), bound it by
/// |Aᵀ|(|G||g||Gᵀ| ⊙ |Bᵀ||d||B|)|A| · n · ε, where n counts the roundings that a number passes through: those
/// of the transforms, and as many as the sum over channels is long. That is the worst case. Here are the same
/// two factors for independent values and independent roundings, whose squares add up (N. J. Higham and
/// T. Mary, "A new approach to probabilistic rounding error analysis", SISC 41(5), 2019):
///
///     error = ε · amplification of the transforms · √(roundings of the transforms + those of the sums)
///
/// A sum whose terms cancel, so that even its largest value is small beside them, has a larger error beside
/// it, and so may one of which few terms are far larger than the rest; no shape tells that.
namespace fusetape::backends::cpu::conv::winograd {

/// Of `convolve`, whose sums are over so many channels of x.
double convolution_error(std::int64_t channels);

double weight_gradient_error(const Problem& problem, const GradientBlocking& blocking, int threads);

}  // namespace fusetape::backends::cpu::conv::winograd
