#include <algorithm>

#include "backends/cpu/conv/onednn.hpp"

/// oneDNN adds all products of an output element in one chain in f32: over the 147 of a 7×7 filter on three
/// channels, rounding alone errs by more than 5e-7 of the largest result. Here some rows of the filter at a
/// time are a convolution of their own, added to the result of those before: half the error with two. Image
/// by image, so that a result is still in a cache when the next rows come: 1 or 2 % slower than the whole.
namespace fusetape::backends::cpu::conv {
namespace {

using dnnl::memory;

constexpr std::int64_t longest_sum = 96;
constexpr std::int64_t few_channels = 4;  ///< those of an image; with more the chains are long in any case

/// Extents of a convolution without groups.
struct Extents {
  explicit Extents(const ConvDescription& conv)
      : x(conv.x.stored.get_dims()), w(conv.w.stored.get_dims()), y(conv.y.stored.get_dims()) {}
  std::int64_t row_products() const { return w[1] * w[3]; }

  memory::dims x, w, y;  ///< {N, C, H, W}, {O, C, kh, kw}
};

/// Rows first … last − 1 of the filter, which meet rows start … end − 1 of the image; some may be padding.
struct Rows {
  std::int64_t first, last, start, end;
};

std::vector<Rows> parts_of(const ConvDescription& conv) {
  const Extents e(conv);
  const std::int64_t height = e.w[2], step = conv.dilates[0] + 1;
  const std::int64_t rows = std::max<std::int64_t>(1, longest_sum / e.row_products());
  std::vector<Rows> parts;
  for (std::int64_t first = 0; first < height; first += rows) {
    const std::int64_t last = std::min(height, first + rows), start = first * step - conv.padding[0];
    parts.push_back(
        {first, last, start, start + (e.y[2] - 1) * conv.strides[0] + (last - first - 1) * step + 1});
  }
  return parts;
}

class SplitConvolution final : public Kernel {
 public:
  explicit SplitConvolution(const ConvDescription& conv)
      : outside_{conv.x.value, conv.w.value, conv.bias.value, conv.z.value, conv.y.value} {
    const Extents e(conv);
    images_ = e.x[0];
    image_ = e.x[1] * e.x[2] * e.x[3];
    result_ = e.y[1] * e.y[2] * e.y[3];
    for (const Rows& rows : parts_of(conv)) add_part(conv, rows);
    name = parts_.front().kernel->name + ", in " + std::to_string(parts_.size()) + " parts";
  }

  void run(const KernelArgs& args) override {
    const auto at = [&](Role role, std::int64_t offset) -> void* {
      const int value = outside_[role];
      return value < 0 ? nullptr : args.out<float>(value) + offset;
    };
    for (std::int64_t n = 0; n < images_; ++n) {
      for (const Part& part : parts_) {
        void* const values[roles] = {at(x, n * image_ + part.image_offset), at(w, part.weights_offset),
                                     at(bias, 0), at(z, n * result_), at(y, n * result_)};
        part.kernel->run({.values = values, .scratch = args.scratch});
      }
    }
  }

  std::size_t scratch_bytes() const override { return scratch_bytes_; }

 private:
  enum Role : std::uint8_t { x, w, bias, z, y, roles };

  struct Part {
    std::unique_ptr<Kernel> kernel;
    std::int64_t image_offset, weights_offset;
  };

  void add_part(const ConvDescription& conv, const Rows& rows) {
    const Extents e(conv);
    const std::int64_t from = std::max<std::int64_t>(rows.start, 0), to = std::min(rows.end, e.x[2]);
    constexpr memory::data_type f32 = memory::data_type::f32;
    const auto image = [](std::int64_t channels, std::int64_t height, std::int64_t width) {
      return memory::desc({1, channels, height, width}, f32, memory::format_tag::nhwc);
    };
    ConvDescription part = conv;
    part.short_sums = false;
    part.x = {x, image(e.x[1], to - from, e.x[3])};
    part.y = {y, image(e.y[1], e.y[2], e.y[3])};
    part.w = {w, {{e.w[0], e.w[1], rows.last - rows.first, e.w[3]}, f32, conv.w.stored.get_strides()}};
    part.padding[0] = from - rows.start;
    part.padding_end[0] = rows.end - to;
    part.onto_y = conv.onto_y || rows.first > 0;
    const bool ends = rows.last == e.w[2];
    part.relu = conv.relu && ends;
    part.bias = ends && conv.bias.present() ? Operand{bias, conv.bias.stored} : Operand{};
    part.z = ends && conv.z.present() ? Operand{z, part.y.stored} : Operand{};
    Part& made = parts_.emplace_back();
    made.kernel = make_forward_primitives(part);
    made.image_offset = from * e.x[3] * e.x[1];
    made.weights_offset = rows.first * e.row_products();
    scratch_bytes_ = std::max(scratch_bytes_, made.kernel->scratch_bytes());
  }

  int outside_[roles];  ///< by role: the value
  std::int64_t images_ = 0, image_ = 0, result_ = 0;
  std::vector<Part> parts_;
  std::size_t scratch_bytes_ = 0;
};

}  // namespace

bool has_long_sums(const ConvDescription& conv) {
  if (!conv.short_sums || conv.x.stored.get_data_type() != memory::data_type::f32) return false;
  const Extents e(conv);
  const bool in_groups = e.w.size() != 4;
  if (in_groups || e.w[1] > few_channels || e.w[2] * e.row_products() <= longest_sum) return false;
  const std::vector<Rows> parts = parts_of(conv);
  return std::all_of(parts.begin(), parts.end(),
                     [&](const Rows& rows) { return rows.start < e.x[2] && rows.end > 0; });
}

std::unique_ptr<Kernel> make_split_convolution(const ConvDescription& conv) {
  return std::make_unique<SplitConvolution>(conv);
}

}  // namespace fusetape::backends::cpu::conv
