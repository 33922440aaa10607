#pragma once

namespace fusetape::core {

/// While it lives, where `on`, the calling thread and its OpenMP threads read and write denormal numbers as 0
/// (x86's MXCSR, bits DAZ and FTZ). Afterwards each has the caller's former bits.
class FlushDenormals {
 public:
  explicit FlushDenormals(bool on);
  ~FlushDenormals();
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  bool on_;
  unsigned before_ = 0;
};

}  // namespace fusetape::core
