#include "backends/cpu/conv/prepared.hpp"

namespace fusetape::backends::cpu::conv {
namespace {

std::size_t whole_lines(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

PreparedConvolution::PreparedConvolution(ConvDescription conv) {
  bias_offset_ = whole_lines(conv.w.stored.get_size());
  prepared_bytes_ = bias_offset_ + (conv.bias.present() ? whole_lines(conv.bias.stored.get_size()) : 0);
  value_of_[image] = conv.x.value;
  value_of_[added] = conv.z.value;
  value_of_[result] = conv.y.value;
  // A z that is x, too, is one value inside as well: nobody may write it while x is read.
  if (conv.z.present()) conv.z.value = conv.z.value == conv.x.value ? image : added;
  conv.x.value = image;
  conv.w.value = weights;
  if (conv.bias.present()) conv.bias.value = bias;
  conv.y.value = result;
  convolution_ = make_forward_convolution(conv);
  name = convolution_->name;
}

void PreparedConvolution::run(const KernelArgs& args) {
  std::array<void*, places> values{};
  for (std::size_t place = 0; place < places; ++place) {
    if (value_of_[place] >= 0) values[place] = args.values[value_of_[place]];
  }
  auto* made_weights = reinterpret_cast<float*>(args.scratch);
  auto* made_bias = reinterpret_cast<float*>(args.scratch + bias_offset_);
  prepare(args, made_weights, made_bias);
  values[weights] = made_weights;
  values[bias] = made_bias;
  convolution_->run({.values = values.data(), .scratch = args.scratch + prepared_bytes_});
}

std::vector<std::pair<int, int>> PreparedConvolution::in_place() const {
  std::vector<std::pair<int, int>> pairs = convolution_->in_place();
  for (auto& [from, to] : pairs) {
    from = value_of_[static_cast<std::size_t>(from)];
    to = value_of_[static_cast<std::size_t>(to)];
  }
  return pairs;
}

}  // namespace fusetape::backends::cpu::conv
