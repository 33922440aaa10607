#include <omp.h>

#include <algorithm>
#include <cstring>

#include "backends/cpu/conv/onednn.hpp"
#include "core/numerics/half.hpp"
#include "core/op/op_attrs.hpp"

/// Convolutions of one image with few outputs each, or their gradients, as one wider convolution: alone, each
/// would leave half of every vector unused. Their filters lie one after the other in scratch, their images y
/// side by side in each pixel; bringing them there, or home from there, is part of the price.
namespace fusetape::backends::cpu::conv {
namespace {

using dnnl::memory;
using plan::Graph;
using plan::Group;
using Sibling = plan::Convolution;

/// Of y, for each thread: so much stays in its cache between the convolution and the copies.
constexpr std::int64_t block_bytes = 128 << 10;
constexpr std::int64_t tile = 64;  ///< pixels, copied for one sibling after the other
constexpr int most_outputs = 8;
constexpr std::int64_t least_extent = 3;

const std::vector<Sibling>& members_of(const Group& group) { return group.as<plan::ConvSiblings>()->members; }

// ---- the wider convolution --------------------------------------------------------------------------------

/// What the convolution inside calls its operands.
enum Place : std::uint8_t { image, filters, bias, wide_image, places };

ConvDescription describe_one(const Graph& graph, const Group& group) {
  const Sibling& first = members_of(group)[0];
  return describe_convolution(
      graph, {.pass = first.pass, .node = first.node, .x = first.x, .w = first.w, .y = first.y});
}

memory::desc nhwc(const memory::dims& dims, memory::data_type type) {
  return {dims, type, memory::format_tag::nhwc};
}

/// All siblings at once, over the first `images` images.
ConvDescription describe_wide(const Graph& graph, const Group& group, std::int64_t images) {
  const std::vector<Sibling>& members = members_of(group);
  ConvDescription conv = describe_one(graph, group);
  memory::dims x = conv.x.stored.get_dims(), w = conv.w.stored.get_dims(), y = conv.y.stored.get_dims();
  x[0] = y[0] = images;
  w[0] *= static_cast<std::int64_t>(members.size());
  y[1] = w[0];
  const memory::data_type type = conv.x.stored.get_data_type();
  conv.x = {image, nhwc(x, type)};
  conv.w = {filters, {w, conv.w.stored.get_data_type(), conv.w.stored.get_strides()}};
  conv.y = {wide_image, nhwc(y, type)};
  const bool biased = std::any_of(members.begin(), members.end(), [](auto& m) { return m.bias >= 0; });
  if (biased) conv.bias = {bias, {{w[0]}, type, memory::format_tag::x}};
  return choose_arithmetic(conv);
}

std::int64_t images_of(const Graph& graph, const Group& group) {
  return graph.value(members_of(group)[0].x).shape[0];
}

// ---- copies -----------------------------------------------------------------------------------------------

std::size_t whole_lines(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

float relu(float v) { return v <= 0 ? 0 : v; }  // keeps a NaN
std::uint16_t relu(std::uint16_t v) { return core::from_bf16(v) <= 0 ? std::uint16_t{0} : v; }

/// Rows of `outputs` elements, from every `from_step`th element to every `to_step`th.
template <class T, int outputs>
void copy_rows(const T* from, std::int64_t from_step, T* to, std::int64_t to_step, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; ++r)
    std::memcpy(to + r * to_step, from + r * from_step, sizeof(T) * outputs);
}

template <class T, int outputs>
void copy_rows_with_relu(const T* from, std::int64_t from_step, T* to, std::int64_t to_step,
                         std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (int o = 0; o < outputs; ++o) to[r * to_step + o] = relu(from[r * from_step + o]);
  }
}

class WideConvolution final : public Kernel {
 public:
  WideConvolution(const Graph& graph, const Group& group)
      : pass_(members_of(group)[0].pass), siblings_(members_of(group)) {
    const Sibling& first = siblings_[0];
    const plan::GraphValue &x = graph.value(first.x), &w = graph.value(first.w), &y = graph.value(first.y);
    halves_ = size_of(y.dtype) == 2;
    images_ = x.shape[0];
    image_bytes_ = x.bytes() / images_;
    outputs_ = y.shape[3];
    pixels_ = y.shape[1] * y.shape[2];
    filter_bytes_ = static_cast<std::size_t>(w.bytes());
    block_ = images_in_a_block(y.bytes() / images_);
    whole_ = make_convolution(describe_wide(graph, group, block_));
    if (images_ % block_ != 0) rest_ = make_convolution(describe_wide(graph, group, images_ % block_));
    place_scratch(size_of(y.dtype));
    name = whole_->name + ", " + std::to_string(count()) + " side by side";
    tensor_passes = 1 + 3 * static_cast<double>(count());  // each y, and its copy in scratch twice
  }

  void run(const KernelArgs& args) override {
    if (pass_ != ConvPass::grad_weight) join_filters(args);
    for (std::int64_t first = 0; first < images_; first += block_) run_block(args, first);
    if (pass_ == ConvPass::grad_weight) part_filters(args);
  }

  std::size_t scratch_bytes() const override {
    return own_bytes_ + std::max(whole_->scratch_bytes(), rest_ != nullptr ? rest_->scratch_bytes() : 0);
  }

 private:
  std::int64_t count() const { return static_cast<std::int64_t>(siblings_.size()); }

  /// The sum over images that is a weight's gradient is made in one piece.
  std::int64_t images_in_a_block(std::int64_t y_bytes) const {
    if (pass_ == ConvPass::grad_weight) return images_;
    const std::int64_t cached = omp_get_max_threads() * block_bytes / (y_bytes * count());
    return std::clamp<std::int64_t>(cached, 1, images_);
  }

  void place_scratch(std::size_t element) {
    const auto elements = [&](std::int64_t n) { return whole_lines(static_cast<std::size_t>(n) * element); };
    bias_offset_ = whole_lines(filter_bytes_ * siblings_.size());
    wide_offset_ = bias_offset_ + elements(count() * outputs_);
    own_bytes_ = wide_offset_ + elements(block_ * pixels_ * count() * outputs_);
  }

  void run_block(const KernelArgs& args, std::int64_t first) {
    const std::int64_t images = std::min(block_, images_ - first);
    std::byte* const wide = args.scratch + wide_offset_;
    if (pass_ != ConvPass::forward) copy_images(args, wide, first, images);
    void* values[places];
    values[image] = args.out<std::byte>(siblings_[0].x) + first * image_bytes_;
    values[filters] = args.scratch;
    values[bias] = args.scratch + bias_offset_;
    values[wide_image] = wide;
    (images == block_ ? whole_ : rest_)->run({.values = values, .scratch = args.scratch + own_bytes_});
    if (pass_ == ConvPass::forward) copy_images(args, wide, first, images);
  }

  void join_filters(const KernelArgs& args) const {
    const std::size_t bias_bytes = static_cast<std::size_t>(outputs_) * (halves_ ? 2 : 4);
    std::byte* to = args.scratch;
    std::byte* bias_to = args.scratch + bias_offset_;
    for (const Sibling& member : siblings_) {
      std::memcpy(to, args.in<std::byte>(member.w), filter_bytes_);
      if (member.bias >= 0) {
        std::memcpy(bias_to, args.in<std::byte>(member.bias), bias_bytes);
      } else {
        std::memset(bias_to, 0, bias_bytes);
      }
      to += filter_bytes_;
      bias_to += bias_bytes;
    }
  }

  void part_filters(const KernelArgs& args) const {
    const std::byte* from = args.scratch;
    for (const Sibling& member : siblings_) {
      std::memcpy(args.out<std::byte>(member.w), from, filter_bytes_);
      from += filter_bytes_;
    }
  }

  void copy_images(const KernelArgs& args, std::byte* wide, std::int64_t first, std::int64_t images) const {
    const bool full = outputs_ == most_outputs;
    if (halves_) {
      auto* const rows = reinterpret_cast<std::uint16_t*>(wide);
      full ? copy_images_of<std::uint16_t, most_outputs>(args, rows, first, images)
           : copy_images_of<std::uint16_t, most_outputs / 2>(args, rows, first, images);
    } else {
      auto* const rows = reinterpret_cast<float*>(wide);
      full ? copy_images_of<float, most_outputs>(args, rows, first, images)
           : copy_images_of<float, most_outputs / 2>(args, rows, first, images);
    }
  }

  /// Between every sibling's own y and their common one: home with the ReLU forward, there backward.
  template <class T, int outputs>
  void copy_images_of(const KernelArgs& args, T* wide, std::int64_t first, std::int64_t images) const {
    const std::int64_t pixels = images * pixels_, width = count() * outputs;
#pragma omp parallel for schedule(static)
    for (std::int64_t start = 0; start < pixels; start += tile) {
      const std::int64_t rows = std::min(tile, pixels - start);
      T* column = wide + start * width;
      for (const Sibling& member : siblings_) {
        T* const own = args.out<T>(member.y) + (first * pixels_ + start) * outputs;
        if (pass_ != ConvPass::forward) {
          copy_rows<T, outputs>(own, outputs, column, width, rows);
        } else if (member.activation != nullptr) {
          copy_rows_with_relu<T, outputs>(column, width, own, outputs, rows);
        } else {
          copy_rows<T, outputs>(column, width, own, outputs, rows);
        }
        column += outputs;
      }
    }
  }

  ConvPass pass_;
  std::vector<Sibling> siblings_;
  bool halves_ = false;
  std::int64_t images_ = 0, image_bytes_ = 0, outputs_ = 0, pixels_ = 0, block_ = 0;
  std::size_t filter_bytes_ = 0, bias_offset_ = 0, wide_offset_ = 0, own_bytes_ = 0;
  std::unique_ptr<Kernel> whole_, rest_;  ///< for a block of images, and for the last ones
};

// ---- what pays --------------------------------------------------------------------------------------------

Support slower(const std::string& why) {
  return {.ok = false, .reason = "not faster than one by one: " + why};
}

bool is_f32(const Graph& graph, const Group& group) {
  return graph.value(members_of(group)[0].x).dtype == DType::f32;
}

/// Of x, so that there is enough to compute beside the copies; those of f32 weigh more.
std::int64_t fewest_channels(const Graph& graph, const Group& group) {
  const bool wide = is_f32(graph, group);
  const bool many =
      members_of(group).size() > 2 && graph.value(members_of(group)[0].w).shape[0] == most_outputs;
  const ConvPass pass = members_of(group)[0].pass;
  if (wide && pass == ConvPass::grad_input) return 16;
  return wide && many && pass == ConvPass::grad_weight ? 5 : 3;
}

/// Whether one wider convolution takes less than 95 % of the separate ones' time. (AVX-512, one thread, 2 to
/// 8 siblings, batches of 16 and 128, images of 8×8 to 32×32, 1 to 64 input channels, copies included:
/// forward 0.3 to 0.86, weight gradients 0.3 to 0.86, strided input gradients 0.4 to 0.9. With 16 outputs,
/// 0.6 to 1.7; 1×1 filters, 0.6 to 1.9; input gradients without a stride, 0.9 to 1.2; AVX2, 0.4 to 1.06.)
Support pays(const Graph& graph, const Group& group) {
  const std::vector<Sibling>& members = members_of(group);
  const Shape& w = graph.value(members[0].w).shape;
  const auto a = graph.node(members[0].node).attrs.as<core::ConvAttrs>();
  const std::int64_t outputs = w[0], channels = w[3];
  if (a.groups != 1) return slower("the channels are in groups");
  if (outputs != most_outputs && outputs != most_outputs / 2)
    return slower("4 or 8 outputs leave half of a vector unused, not " + std::to_string(outputs));
  if (w[1] < least_extent || w[2] < least_extent) {
    return slower("filters under 3x3 compute too little for the copies that put the results apart");
  }
  if (channels < fewest_channels(graph, group)) {
    return slower("with " + std::to_string(channels) + " input channels there is too little to compute");
  }
  if (members_of(group)[0].pass == ConvPass::grad_input && a.stride_h == 1 && a.stride_w == 1) {
    return slower("without a stride, oneDNN adds one gradient of the image into the other's buffer");
  }
  if (members_of(group)[0].pass == ConvPass::grad_input && is_f32(graph, group) && w[1] * w[2] > 9) {
    return slower("the f32 input gradient of a filter over 3x3 computes long enough without");
  }
  const std::string implementation = implementation_of(choose_arithmetic(describe_one(graph, group)));
  if (implementation.find("avx512") == std::string::npos) {
    return {.ok = false,
            .reason = "a gain is sure only in oneDNN's AVX-512 kernels, not in " + implementation};
  }
  return {};
}

}  // namespace

Support supports_conv_siblings(const Graph& graph, const Group& group) {
  if (group.as<plan::ConvSiblings>() == nullptr) return not_mine;
  for (const Sibling& member : members_of(group)) {
    Support fits = fits_onednn(graph, {member.x, member.w, member.bias, member.y});
    if (!fits.ok) return fits;
  }
  Support gain;
  const Support made = supported_by_onednn([&] {
    gain = pays(graph, group);
    if (gain.ok) implementation_of(describe_wide(graph, group, images_of(graph, group)));
  });
  return made.ok ? gain : made;
}

std::unique_ptr<Kernel> make_conv_siblings(const Graph& graph, const Group& group) {
  return std::make_unique<WideConvolution>(graph, group);
}

}  // namespace fusetape::backends::cpu::conv
