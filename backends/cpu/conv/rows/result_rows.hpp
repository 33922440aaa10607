#pragma once
#include <vector>

#include "backends/cpu/conv/rows/ahead.hpp"
#include "backends/cpu/norm/gradient_rows.hpp"
#include "backends/cpu/norm/part_moments.hpp"

/// What becomes of a convolution's result, a few pixels at a time while they are in a cache: bias, another
/// image added, a mask or an activation's gradient, and the sums of a batch norm.
namespace fusetape::backends::cpu::conv::rows {

template <class T>
class ResultRows {
 public:
  /// `parts`: threads that finish pixels at the same time.
  ResultRows(const plan::Graph& graph, const plan::Convolution& conv, int parts);

  /// Sums over a multiple of so many pixels cost least, and are the most exact.
  std::int64_t pixels_of_row() const { return rows_.repeat(); }
  /// Before the pixels of a run. On a null base, and without rooms, memory is only counted.
  void begin(const KernelArgs& args, ScratchCarver& carver, RoomCarver& rooms);
  /// What these pixels will be written to and finished with.
  void look_ahead(std::int64_t first, std::int64_t count, Ahead& ahead) const;
  /// Where the products of pixels from `first` on are to be left.
  T* at(std::int64_t first) const { return result_ + first * rows_.channels(); }
  /// From the products of these pixels to what is to be.
  void finish(int part, std::int64_t first, std::int64_t count);
  /// After all pixels: statistics and sums to their places.
  void end(const KernelArgs& args);

 private:
  /// Sums of a part: a wide row of each.
  struct PartSums {
    float *chain_g = nullptr, *chain_gx = nullptr;
    double *sum_g = nullptr, *sum_gx = nullptr;
    T* room = nullptr;
  };

  void take_part(int part, ScratchCarver& room);
  std::int64_t part_bytes();
  void end_statistics(const KernelArgs& args);
  void end_sums(const KernelArgs& args);

  plan::Convolution conv_;
  ChannelRows rows_;
  int parts_;
  double eps_ = 0;  ///< of the norm whose statistics these are
  bool changes_;    ///< whether pixels are added to, masked, or summed as a gradient
  norm::GradientRows<T> gradient_rows_;
  std::vector<norm::PartMoments<T>> moments_;
  std::vector<PartSums> sums_;

  // Of a run.
  T* result_ = nullptr;
  norm::NormForward<T> bias_;
  norm::NormBackward<T> gradient_;
};

}  // namespace fusetape::backends::cpu::conv::rows
