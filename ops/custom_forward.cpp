// The elements of a user's own op, in place or converted.
#include "core/numerics/element.hpp"
#include "core/op/op.hpp"
#include "fusetape/custom.hpp"

namespace fusetape {

struct CustomForward::Copy {
  std::unique_ptr<std::byte[]> data;
  DType dtype;
  const core::RawTensor* output;  ///< to be rounded into; nullptr: of an input
};

namespace {

const core::RawTensor& at(const std::string& op, const char* what, std::span<const core::RawTensor> tensors,
                          std::size_t i) {
  if (i < tensors.size()) return tensors[i];
  throw Error(op, std::string("expected a number below ") + std::to_string(tensors.size()) + " for its " +
                      what + "s, got " + std::to_string(i));
}

}  // namespace

CustomForward::CustomForward(const std::string& op, std::span<const core::RawTensor> in,
                             std::span<const core::RawTensor> out)
    : op_(op), in_(in), out_(out) {}
CustomForward::~CustomForward() = default;

const Shape& CustomForward::input_shape(std::size_t i) const { return at(op_, "input", in_, i).shape; }
const Shape& CustomForward::output_shape(std::size_t i) const { return at(op_, "output", out_, i).shape; }
DType CustomForward::input_dtype(std::size_t i) const { return at(op_, "input", in_, i).dtype; }
DType CustomForward::output_dtype(std::size_t i) const { return at(op_, "output", out_, i).dtype; }

const void* CustomForward::read(std::size_t i, DType as) {
  const core::RawTensor& tensor = at(op_, "input", in_, i);
  if (tensor.dtype == as) return tensor.data;
  const std::size_t bytes = size(tensor.shape) * size_of(as);
  copies_.push_back(std::make_unique<Copy>(Copy{std::make_unique<std::byte[]>(bytes), as, nullptr}));
  core::convert(tensor.data, tensor.dtype, copies_.back()->data.get(), as, tensor.shape.elements());
  return copies_.back()->data.get();
}

void* CustomForward::write(std::size_t i, DType as) {
  const core::RawTensor& tensor = at(op_, "output", out_, i);
  if (tensor.dtype == as) return tensor.data;
  for (const auto& copy : copies_) {  // asked for again: the same elements
    if (copy->output == &tensor && copy->dtype == as) return copy->data.get();
  }
  const std::size_t bytes = size(tensor.shape) * size_of(as);
  copies_.push_back(std::make_unique<Copy>(Copy{std::make_unique<std::byte[]>(bytes), as, &tensor}));
  return copies_.back()->data.get();
}

void CustomForward::write_back() {
  for (const auto& copy : copies_) {
    if (copy->output == nullptr) continue;
    const core::RawTensor& tensor = *copy->output;
    core::convert(copy->data.get(), copy->dtype, tensor.data, tensor.dtype, tensor.shape.elements());
  }
}

}  // namespace fusetape
