// Reads a source's pixels as f32 rows, once for every target that foreach_target.h goes through.
#if defined(FUSETAPE_WINOGRAD_ROW_LOADER_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef FUSETAPE_WINOGRAD_ROW_LOADER_INL
#undef FUSETAPE_WINOGRAD_ROW_LOADER_INL
#else
#define FUSETAPE_WINOGRAD_ROW_LOADER_INL
#endif

#include <limits>

#include "backends/cpu/channel_vectors-inl.hpp"
#include "backends/cpu/conv/winograd/forms.hpp"
#include "backends/cpu/conv/winograd/tiles.hpp"

HWY_BEFORE_NAMESPACE();
namespace fusetape::backends::cpu::conv::HWY_NAMESPACE {

using namespace cpu::HWY_NAMESPACE;  // NOLINT(google-build-using-namespace): the vectors

namespace {

static_assert(winograd::chunk % lanes == 0);

using winograd::Form;

constexpr bool has_relu(Form form) {
  return form == Form::norm_relu || form == Form::norm_add_relu || form == Form::two_norms_relu;
}
constexpr bool reads_x2(Form form) {
  return form == Form::norm_add_relu || form == Form::two_norms_relu || form == Form::norm_gradient;
}

/// One vector of a per-channel array; 0 where there is none. Every NaN becomes the plain one: bf16's rounding
/// knows no other.
template <class Access>
HWY_INLINE Vec per_channel(const float* values, const Access& access, std::int64_t channel) {
  if (values == nullptr) return hn::Zero(Floats());
  const Vec v = access.load(values + channel);
  return hn::IfThenElse(hn::IsNaN(v), hn::Set(Floats(), std::numeric_limits<float>::quiet_NaN()), v);
}

/// Stores what is `rounded` already.
template <class T, class Access>
HWY_INLINE void store_rounded(const Access& access, Vec v, T* to) {
  if constexpr (std::is_same_v<T, Bf16> && std::is_same_v<Access, Whole>) {
    const auto upper = hn::ShiftRight<16>(hn::BitCast(Words(), v));
    hn::StoreU(hn::TruncateTo(Halves(), upper), Halves(), halves(to));
  } else {
    access.store(v, to);
  }
}

/// A source's value on one vector of channels.
template <class T, Form F>
struct SourceColumn {
  Vec mean, scale, shift, mean2, scale2, shift2;
  template <class Access>
  HWY_INLINE SourceColumn(const winograd::Source& s, const Access& access, std::int64_t channel)
      : mean(per_channel(s.mean, access, channel)),
        scale(per_channel(s.scale, access, channel)),
        shift(per_channel(s.shift, access, channel)),
        mean2(per_channel(s.mean2, access, channel)),
        scale2(per_channel(s.scale2, access, channel)),
        shift2(per_channel(s.shift2, access, channel)) {}

  template <class Access>
  HWY_INLINE Vec value(const T* x, const T* x2, const Access& access) const {
    Vec v = access.load(x);
    if constexpr (F == Form::norm_gradient) {
      v = hn::MulAdd(scale, v, hn::MulAdd(scale2, hn::Sub(access.load(x2), mean2), shift2));
    } else if constexpr (F != Form::plain) {
      v = normalised(v, mean, scale, shift);
    }
    if constexpr (F == Form::norm_add_relu) v = hn::Add(rounded<T>(v), access.load(x2));
    if constexpr (F == Form::two_norms_relu) {
      v = hn::Add(rounded<T>(v), rounded<T>(normalised(access.load(x2), mean2, scale2, shift2)));
    }
    if constexpr (has_relu(F)) v = relu(v);
    if constexpr (F == Form::plain) return v;
    return rounded<T>(v);
  }
};

inline void fill_zeros(float* to, std::int64_t pixels) {
  for (std::int64_t i = 0; i < pixels; ++i, to += winograd::chunk) {
    hn::Store(hn::Zero(Floats()), Floats(), to);
  }
}

/// One vector of channels of a rectangle's pixels, `chunk` floats from pixel to pixel; of those in `owned`
/// also to source.written.
template <class T, Form F, class Access>
void load_column(const winograd::Problem& problem, const winograd::Source& source,
                 const winograd::Rectangle& pixels, const winograd::Rectangle& owned, std::int64_t channel,
                 const Access& access, float* to) {
  const SourceColumn<T, F> column(source, access, channel);
  const std::int64_t pixel = problem.in;  // what stands in memory might change with every store
  const std::int64_t left = std::clamp<std::int64_t>(-pixels.column, 0, pixels.columns);
  const std::int64_t right = std::clamp<std::int64_t>(problem.width - pixels.column, left, pixels.columns);
  for (std::int64_t i = 0; i < pixels.rows; ++i, to += pixels.columns * winograd::chunk) {
    const std::int64_t row = pixels.row + i;
    if (row < 0 || row >= problem.height) {
      fill_zeros(to, pixels.columns);
      continue;
    }
    const std::int64_t at =
        ((pixels.image * problem.height + row) * problem.width + pixels.column + left) * problem.in + channel;
    const T* x = static_cast<const T*>(source.x) + at;
    const T* x2 = reads_x2(F) ? static_cast<const T*>(source.x2) + at : x;
    float* p = to + left * winograd::chunk;
    fill_zeros(to, left);
    const auto load = [&](std::int64_t count) HWY_ATTR {
      for (; count > 0; --count, x += pixel, x2 += pixel, p += winograd::chunk) {
        hn::Store(column.value(x, x2, access), Floats(), p);
      }
    };
    if (F == Form::plain || row < owned.row || row >= owned.row + owned.rows) {
      load(right - left);
    } else {
      const std::int64_t first = owned.column - pixels.column, end = first + owned.columns;
      T* written = static_cast<T*>(source.written) + at + (first - left) * pixel;
      load(first - left);
      for (std::int64_t j = first; j < end;
           ++j, x += pixel, x2 += pixel, written += pixel, p += winograd::chunk) {
        const Vec v = column.value(x, x2, access);
        hn::Store(v, Floats(), p);
        store_rounded(access, v, written);
      }
      load(right - end);
    }
    fill_zeros(p, pixels.columns - right);
  }
}

/// Calls f(access, channel, place in the chunk) for each vector of a chunk; of channels beyond `channels`
/// there is nothing to access.
template <class F>
HWY_INLINE void for_vectors(std::int64_t first_channel, std::int64_t channels, F&& f) {
  for (std::int64_t place = 0; place < winograd::chunk; place += lanes) {
    const std::int64_t count = channels - first_channel - place;
    if (count >= lanes) {
      f(Whole{}, first_channel + place, place);
    } else if (count > 0) {
      f(Tail(count), first_channel + place, place);
    }
  }
}

template <class T, Form F>
void load_chunk(const winograd::Problem& problem, const winograd::Source& source,
                const winograd::Rectangle& pixels, const winograd::Rectangle& owned,
                std::int64_t first_channel, float* to) {
  if (problem.in - first_channel <= winograd::chunk - lanes) {
    std::memset(to, 0, static_cast<std::size_t>(pixels.rows * pixels.columns * winograd::chunk) * 4);
  }
  for_vectors(first_channel, problem.in,
              [&](const auto& access, std::int64_t channel, std::int64_t place) HWY_ATTR {
                load_column<T, F>(problem, source, pixels, owned, channel, access, to + place);
              });
}

template <class T>
void load_typed(const winograd::Problem& problem, const winograd::Source& source,
                const winograd::Rectangle& pixels, const winograd::Rectangle& owned,
                std::int64_t first_channel, float* to) {
  switch (form_of(source)) {
    case Form::plain:
      return load_chunk<T, Form::plain>(problem, source, pixels, owned, first_channel, to);
    case Form::norm:
      return load_chunk<T, Form::norm>(problem, source, pixels, owned, first_channel, to);
    case Form::norm_relu:
      return load_chunk<T, Form::norm_relu>(problem, source, pixels, owned, first_channel, to);
    case Form::norm_add_relu:
      return load_chunk<T, Form::norm_add_relu>(problem, source, pixels, owned, first_channel, to);
    case Form::two_norms_relu:
      return load_chunk<T, Form::two_norms_relu>(problem, source, pixels, owned, first_channel, to);
    case Form::norm_gradient:
      return load_chunk<T, Form::norm_gradient>(problem, source, pixels, owned, first_channel, to);
  }
}

/// v of a chunk of channels of the rectangle's pixels to `to` {rows, columns, chunk}, 64-byte aligned: zeros
/// outside of the image and beyond the last channel. Those of the pixels that are in `owned`, inside of the
/// image or without rows, go to source.written, too.
inline void load_pixels(const winograd::Problem& problem, const winograd::Source& source,
                        const winograd::Rectangle& pixels, const winograd::Rectangle& owned,
                        std::int64_t first_channel, float* to) {
  source.dtype == DType::bf16 ? load_typed<Bf16>(problem, source, pixels, owned, first_channel, to)
                              : load_typed<float>(problem, source, pixels, owned, first_channel, to);
}

}  // namespace
}  // namespace fusetape::backends::cpu::conv::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // FUSETAPE_WINOGRAD_ROW_LOADER_INL
