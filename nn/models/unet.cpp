#include "fusetape/models/unet.hpp"

#include <vector>

#include "nn/models/common.hpp"

namespace fusetape::nn {
namespace {

UNet::Options checked(UNet::Options options, Location at) {
  const auto require = requirement("UNet", at);
  require(options.depth >= 1 && options.depth <= 10, "a depth of 1 to 10", options.depth);
  check_sizes(require, options);
  require(options.width <= most_channels >> options.depth, "width·2^depth ≤ 2^24", options.width);
  return options;
}

void add_pair(ModuleList& list, std::int64_t in, std::int64_t out, bool norms, Location at) {
  Sequential& pair = list.emplace<Sequential>(at);
  pair.emplace<ConvNorm>({.in = in, .out = out, .norm = norms}, at);
  pair.emplace<ConvNorm>({.in = out, .out = out, .norm = norms}, at);
}

}  // namespace

UNet::UNet(Options options, Location at)
    : head_({.in = checked(options, at).width, .out = options.classes}, at) {
  add_pair(down_, options.channels, options.width, options.norms, at);
  for (std::int64_t d = 0; d < options.depth; ++d) {
    const std::int64_t width = options.width << d;
    add_pair(down_, width, 2 * width, options.norms, at);
    join_.emplace<ConvTranspose2d>({.in = 2 * width, .out = width, .kernel = 2, .stride = 2}, at);
    add_pair(up_, 2 * width, width, options.norms, at);
  }
  register_child("down", down_);
  register_child("join", join_);
  register_child("up", up_);
  register_child("head", head_);
}

Tensor UNet::forward(const Tensor& x) {
  const Location at = here();
  const std::size_t depth = up_.size();
  const std::int64_t multiple = std::int64_t{1} << depth;
  if (x.shape().rank() == 4 && (x.size(1) % multiple != 0 || x.size(2) % multiple != 0)) {
    throw Error("UNet",
                "expected height and width that are multiples of " + std::to_string(multiple) + ", got " +
                    to_string(x.shape()),
                at);
  }
  std::vector<Tensor> levels = {down_[0](x, at)};
  for (std::size_t d = 1; d <= depth; ++d) levels.push_back(down_[d](max_pool2d({levels.back(), at}, 2), at));
  Tensor y = levels.back();
  for (std::size_t d = depth; d-- > 0;) y = up_[d](concat({levels[d], join_[d](y, at)}, -1, at), at);
  return head_(y, at);
}

}  // namespace fusetape::nn
