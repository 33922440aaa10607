#include "backends/cuda/norm_spec.hpp"

namespace fusetape::backends::cuda {

const char* name_of(NormPlace place) {
  switch (place) {
    case NormPlace::x:
      return "x";
    case NormPlace::z:
      return "z";
    case NormPlace::g:
      return "g";
    case NormPlace::mask:
      return "mask";
    case NormPlace::gamma:
      return "gamma";
    case NormPlace::beta:
      return "beta";
    case NormPlace::running_mean:
    case NormPlace::new_running_mean:
      return "running mean";
    case NormPlace::running_var:
    case NormPlace::new_running_var:
      return "running variance";
    case NormPlace::momentum:
      return "momentum";
    case NormPlace::mean:
      return "mean";
    case NormPlace::inv_std:
      return "inverse deviation";
    case NormPlace::y:
      return "y";
    case NormPlace::masked:
      return "masked gradient";
    case NormPlace::dx:
      return "dx";
    case NormPlace::dgamma:
      return "dgamma";
    case NormPlace::dbeta:
      return "dbeta";
  }
  return "";
}

NormOperand bits_of(const NormSpec& spec, bool written) {
  return {NormPlace::mask, NormOperand::Kind::bits, DType::u8, (spec.elements() + 7) / 8, written};
}

std::vector<NormOperand> operands_of(const NormSpec& spec) {
  using enum NormPlace;
  using Kind = NormOperand::Kind;
  std::vector<NormOperand> operands;
  const auto image = [&](NormPlace place, bool written = false) {
    operands.push_back({place, Kind::image, spec.dtype, spec.elements(), written});
  };
  const auto channels = [&](NormPlace place, bool written = false) {
    operands.push_back({place, Kind::channels, DType::f32, spec.c, written});
  };
  const bool forward = spec.pass == NormSpec::Pass::forward;
  image(x);
  if (spec.add) image(z);
  if (!forward) image(g);
  if (spec.mask) operands.push_back(bits_of(spec, false));
  channels(gamma);
  if (forward) channels(beta);
  channels(mean, forward);
  channels(inv_std, forward);
  if (forward) {
    image(y, true);
    return operands;
  }
  if (spec.masked) image(masked, true);
  image(dx, true);
  channels(dgamma, true);
  channels(dbeta, true);
  return operands;
}

}  // namespace fusetape::backends::cuda
