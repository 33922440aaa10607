#pragma once

/// Marks what compiles for the host and for a CUDA device alike: the formulas of kernels, which the tests run
/// on the host.
#ifdef __CUDACC__
#define FUSETAPE_HD __host__ __device__
#else
#define FUSETAPE_HD
#endif
