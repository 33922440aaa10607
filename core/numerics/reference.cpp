#include "core/numerics/reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/numerics/element.hpp"
#include "core/numerics/half.hpp"
#include "core/op/op_list.hpp"

namespace fusetape::core {
namespace {

std::int64_t to_integer(double value) {
  if (std::isnan(value)) return 0;
  if (value >= 0x1p63) return std::numeric_limits<std::int64_t>::max();
  if (value < -0x1p63) return std::numeric_limits<std::int64_t>::min();
  return static_cast<std::int64_t>(value);
}

template <class T, class Convert>
void read(const void* from, std::int64_t count, double* to, Convert convert) {
  const T* elements = static_cast<const T*>(from);
  for (std::int64_t i = 0; i < count; ++i) to[i] = convert(elements[i]);
}

template <class T, class Convert>
void write(const double* from, std::int64_t count, void* to, Convert convert) {
  T* elements = static_cast<T*>(to);
  for (std::int64_t i = 0; i < count; ++i) elements[i] = convert(from[i]);
}

std::size_t padded(std::int64_t elements) {
  return (static_cast<std::size_t>(elements) * sizeof(double) + 63) / 64 * 64;
}

/// Elements of an integer dtype or bool, and back: what is too large for a dtype wraps around.
void to_wholes(const void* from, DType dtype, std::int64_t count, std::int64_t* to) {
  if (dtype == DType::i64) {
    std::copy_n(static_cast<const std::int64_t*>(from), count, to);
  } else if (dtype == DType::u8) {
    std::copy_n(static_cast<const std::uint8_t*>(from), count, to);
  } else {
    std::transform(static_cast<const std::uint8_t*>(from), static_cast<const std::uint8_t*>(from) + count, to,
                   [](std::uint8_t x) { return x != 0 ? 1 : 0; });
  }
}

void from_wholes(const std::int64_t* from, DType dtype, std::int64_t count, void* to) {
  if (dtype == DType::i64) {
    std::copy_n(from, count, static_cast<std::int64_t*>(to));
  } else {
    std::transform(from, from + count, static_cast<std::uint8_t*>(to), [dtype](std::int64_t x) {
      return static_cast<std::uint8_t>(dtype == DType::u8 ? x : x != 0 ? 1 : 0);
    });
  }
}

/// How the elements of the loops are read and written, and which of an op's meanings they are given to.
struct Reals {
  using T = double;
  static constexpr auto read = to_doubles;
  static constexpr auto write = from_doubles;
  static constexpr auto reference = &OpDef::reference;
  static constexpr auto pointwise = &OpDef::pointwise;
};
struct Wholes {
  using T = std::int64_t;
  static constexpr auto read = to_wholes;
  static constexpr auto write = from_wholes;
  static constexpr auto reference = &OpDef::whole_reference;
  static constexpr auto pointwise = &OpDef::whole_pointwise;
};

/// One element at a time, every input read where it is broadcast to.
template <class T>
void run_pointwise(T (*pointwise)(const T*, const Attrs&), const Attrs& attrs,
                   std::span<const RefTensorOf<T>> in, const RefTensorOf<T>& out) {
  constexpr std::size_t most = 8;
  FUSETAPE_ASSERT(in.size() <= most);
  T elements[most];
  if (in.size() == 1 && in[0].shape == out.shape) {
    for (std::int64_t i = 0; i < out.size(); ++i) out.data[i] = pointwise(in[0].data + i, attrs);
    return;
  }
  Strides strides[most];
  for (std::size_t k = 0; k < in.size(); ++k) strides[k] = broadcast_strides(in[k].shape, out.shape);
  const Shape& shape = out.shape;
  std::array<std::int64_t, Shape::max_rank> index{};
  std::array<std::int64_t, most> offset{};
  for (std::int64_t i = 0; i < out.size(); ++i) {
    for (std::size_t k = 0; k < in.size(); ++k) elements[k] = in[k].data[offset[k]];
    out.data[i] = pointwise(elements, attrs);
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      const auto a = static_cast<std::size_t>(axis);
      for (std::size_t k = 0; k < in.size(); ++k) offset[k] += strides[k][a];
      if (++index[a] < shape[axis]) break;
      for (std::size_t k = 0; k < in.size(); ++k) offset[k] -= strides[k][a] * shape[axis];
      index[a] = 0;
    }
  }
}

template <class Elements>
void run_on(const plan::Graph& graph, const plan::GraphNode& node, void* const* values, std::byte* scratch) {
  using T = typename Elements::T;
  const OpDef& op = *node.op;
  const auto take = [&](int id) {
    const plan::GraphValue& value = graph.value(id);
    RefTensorOf<T> tensor{value.shape, value.dtype, reinterpret_cast<T*>(scratch)};
    scratch += padded(value.elements());
    return tensor;
  };
  InlineVector<RefTensorOf<T>, 12> in, out;
  for (int id : node.inputs) {
    in.push_back(take(id));
    const RefTensorOf<T>& tensor = in[in.size() - 1];
    Elements::read(values[id], tensor.dtype, tensor.size(), tensor.data);
  }
  for (int id : node.outputs) out.push_back(take(id));

  const std::span<const RefTensorOf<T>> ins(in.begin(), in.size()), outs(out.begin(), out.size());
  if (op.*Elements::reference != nullptr) {
    RefContextOf<T> context(op.name, node.attrs, ins, outs);
    (op.*Elements::reference)(context);
  } else {
    run_pointwise<T>(op.*Elements::pointwise, node.attrs, ins, outs[0]);
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    Elements::write(out[i].data, out[i].dtype, out[i].size(), values[node.outputs[i]]);
  }
}

bool only_wholes(const plan::Graph& graph, const plan::GraphNode& node) {
  const auto is_whole = [&](int id) { return !is_floating(graph.value(id).dtype); };
  return std::all_of(node.inputs.begin(), node.inputs.end(), is_whole) &&
         std::all_of(node.outputs.begin(), node.outputs.end(), is_whole);
}

}  // namespace

void to_doubles(const void* from, DType dtype, std::int64_t count, double* to) {
  switch (dtype) {
    case DType::f32:
      return read<float>(from, count, to, [](float x) { return static_cast<double>(x); });
    case DType::f64:
      return read<double>(from, count, to, [](double x) { return x; });
    case DType::bf16:
      return read<std::uint16_t>(from, count, to,
                                 [](std::uint16_t x) { return static_cast<double>(from_bf16(x)); });
    case DType::f16:
      return read<std::uint16_t>(from, count, to,
                                 [](std::uint16_t x) { return static_cast<double>(from_f16(x)); });
    case DType::i64:
      return read<std::int64_t>(from, count, to, [](std::int64_t x) { return static_cast<double>(x); });
    case DType::u8:
      return read<std::uint8_t>(from, count, to, [](std::uint8_t x) { return static_cast<double>(x); });
    case DType::boolean:
      return read<std::uint8_t>(from, count, to, [](std::uint8_t x) { return x != 0 ? 1.0 : 0.0; });
  }
}

void from_doubles(const double* from, DType dtype, std::int64_t count, void* to) {
  switch (dtype) {
    case DType::f32:
      return write<float>(from, count, to, [](double x) { return static_cast<float>(x); });
    case DType::f64:
      return write<double>(from, count, to, [](double x) { return x; });
    case DType::bf16:
      return write<std::uint16_t>(from, count, to, [](double x) { return to_bf16(static_cast<float>(x)); });
    case DType::f16:
      return write<std::uint16_t>(from, count, to, [](double x) { return to_f16(static_cast<float>(x)); });
    case DType::i64:
      return write<std::int64_t>(from, count, to, to_integer);
    case DType::u8:
      return write<std::uint8_t>(from, count, to, [](double x) { return saturated_byte(to_integer(x)); });
    case DType::boolean:
      return write<std::uint8_t>(from, count, to, [](double x) { return static_cast<std::uint8_t>(x != 0); });
  }
}

std::size_t reference_scratch_bytes(const plan::Graph& graph, const plan::GraphNode& node) {
  std::size_t bytes = 0;
  for (int id : node.inputs) bytes += padded(graph.value(id).elements());
  for (int id : node.outputs) bytes += padded(graph.value(id).elements());
  return bytes;
}

void run_reference(const plan::Graph& graph, const plan::GraphNode& node, void* const* values,
                   std::byte* scratch) {
  const OpDef& op = *node.op;
  if (op.view) {
    const void* from = values[node.inputs[0]];
    void* to = values[node.outputs[0]];
    const auto bytes = static_cast<std::size_t>(graph.value(node.outputs[0]).bytes());
    if (to != from && bytes != 0) std::memcpy(to, from, bytes);
    return;
  }
  if (node.is(ops::cast_op)) {
    const plan::GraphValue &from = graph.value(node.inputs[0]), &to = graph.value(node.outputs[0]);
    return convert(values[node.inputs[0]], from.dtype, values[node.outputs[0]], to.dtype, to.elements());
  }
  const bool exact = op.whole_reference != nullptr || op.whole_pointwise != nullptr;
  exact&& only_wholes(graph, node) ? run_on<Wholes>(graph, node, values, scratch)
                                   : run_on<Reals>(graph, node, values, scratch);
}

}  // namespace fusetape::core
