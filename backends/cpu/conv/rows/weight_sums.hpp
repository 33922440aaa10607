#pragma once
#include "backends/cpu/conv/rows/products.hpp"
#include "backends/cpu/scratch.hpp"
#include "fusetape/dtype.hpp"

/// A weight gradient as sums that each thread has for itself.
namespace fusetape::backends::cpu::conv::rows {

/// Pixels as rows of `in` floats: one matrix, or panel by panel (products.hpp).
struct RightRows {
  const float* at = nullptr;
  std::int64_t row = 0, panel = 0;  ///< floats from pixel to pixel, and from panel to panel
};

/// dw(o, c) = Σ over pixels of g(p, o)·x(p, c): of each thread for its own, then of all threads in their
/// order.
class WeightSums {
 public:
  WeightSums(std::int64_t out, std::int64_t in, int parts) : out_(out), in_(in), parts_(parts) {}

  /// Before the pixels of a run.
  void begin(RoomCarver& rooms) { sums_ = rooms.take<float>(size()); }
  /// `starts`: these are the part's first pixels.
  void add(int part, bool starts, const float* g, const RightRows& x, std::int64_t pixels,
           Ahead* ahead) const;
  void end(DType dtype, void* dw) const;

 private:
  std::int64_t size() const { return out_ * in_; }

  std::int64_t out_, in_;
  int parts_;
  InRooms<float> sums_;
};

}  // namespace fusetape::backends::cpu::conv::rows
