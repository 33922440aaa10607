// Ops of a user's own: an OpDef made at run time, whose functions call the user's.
#include "fusetape/custom.hpp"

#include <algorithm>
#include <cctype>
#include <exception>
#include <mutex>

#include "core/op/op.hpp"
#include "core/tape/module_scope.hpp"
#include "core/tape/tape.hpp"
#include "fusetape/autograd.hpp"

namespace fusetape::core {

/// Nodes, plans and histories point here, so it lives as long as the process.
struct CustomDefinition {
  CustomOpOptions options;
  std::function<Tensor(const std::vector<Tensor>&)> composed;  ///< custom_gradient: the forward
  OpDef op;

  /// custom_gradient records a view of the composed value with the op's inputs behind it.
  int first_input() const { return composed ? 1 : 0; }
};

namespace {

/// How an op's functions find the definition that they belong to.
struct CustomAttrs {
  std::int64_t definition = 0;
};

const CustomDefinition& definition_of(const Attrs& attrs) {
  const auto address = static_cast<std::uintptr_t>(attrs.as<CustomAttrs>().definition);
  return *reinterpret_cast<const CustomDefinition*>(address);
}

Attrs attrs_of(const CustomDefinition& definition) {
  return Attrs::of(CustomAttrs{static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(&definition))});
}

std::string text_of(std::span<const TensorInfo> infos) {
  std::string text;
  for (const TensorInfo& info : infos) {
    text += (text.empty() ? "" : ", ") + std::string(name_of(info.dtype)) + " " + to_string(info.shape);
  }
  return text.empty() ? "none" : text;
}

std::string inputs_text(int count) { return std::to_string(count) + (count == 1 ? " input" : " inputs"); }

/// What an exception of the user's code says; an Error's own op comes with it.
std::string what_of(std::exception_ptr thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    return "[" + error.op() + "] " + error.message();
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "something that is no std::exception";
  }
}

// ---- shapes -----------------------------------------------------------------------------------------------

std::vector<TensorSpec> apply_rule(InferContext& ctx, const CustomOpOptions& options) {
  std::vector<TensorSpec> inputs;
  for (const TensorInfo& info : ctx.inputs) inputs.push_back({info.shape, info.dtype});
  if (!options.shapes) return {inputs[0]};
  try {
    return options.shapes(inputs);
  } catch (...) {
    ctx.fail("inputs that its shape rule takes",
             text_of(ctx.inputs) + ": " + what_of(std::current_exception()));
  }
}

void infer_custom(InferContext& ctx) {
  const CustomOpOptions& options = definition_of(ctx.attrs).options;
  if (static_cast<int>(ctx.inputs.size()) != options.inputs) {
    ctx.fail(inputs_text(options.inputs), std::to_string(ctx.inputs.size()));
  }
  const std::vector<TensorSpec> outputs = apply_rule(ctx, options);
  constexpr std::size_t most = 30;
  if (outputs.empty() || outputs.size() > most)
    ctx.fail("1 to 30 outputs from its shape rule", std::to_string(outputs.size()));
  for (int saved : options.saves_outputs) {
    if (static_cast<std::size_t>(saved) >= outputs.size()) {
      ctx.fail("saves_outputs below " + std::to_string(outputs.size()) + ", its number of outputs",
               std::to_string(saved));
    }
  }
  for (const TensorSpec& output : outputs) ctx.output(output.shape, output.dtype);
}

void infer_boundary(InferContext& ctx) { ctx.output(ctx.shape(0), ctx.dtype(0)); }

// ---- forward ----------------------------------------------------------------------------------------------

void run_custom(const Attrs& attrs, std::span<const RawTensor> in, std::span<const RawTensor> out) {
  const CustomOpOptions& options = definition_of(attrs).options;
  try {
    CustomForward call(options.name, in, out);
    options.forward(call);
    call.write_back();
  } catch (const Error& error) {
    throw Error(options.name,
                "its forward threw " +
                    (error.op() == options.name ? error.message() : what_of(std::current_exception())));
  } catch (...) {
    throw Error(options.name, "its forward threw " + what_of(std::current_exception()));
  }
}

// ---- gradient ---------------------------------------------------------------------------------------------

[[noreturn]] void gradient_fails(const CustomDefinition& definition, const std::string& what) {
  const SourceContext& source = source_context();
  throw Error(definition.options.name, what, source.at,
              source.module_path != nullptr ? *source.module_path : std::string());
}

void check_gradient(const CustomDefinition& definition, const GradContext& ctx, int input,
                    const Tensor& gradient) {
  const TensorInfo wanted{ctx.input_shape(input), ctx.input_dtype(input)};
  const TensorInfo got{gradient.shape(), gradient.dtype()};
  if (got.shape == wanted.shape && got.dtype == wanted.dtype) return;
  gradient_fails(definition, "expected a gradient " + text_of({&wanted, 1}) + " for input " +
                                 std::to_string(input - definition.first_input()) + ", got " +
                                 text_of({&got, 1}));
}

std::vector<Tensor> call_gradient(const CustomDefinition& definition, GradContext& ctx) {
  try {
    return definition.options.gradient(CustomGradient(definition, ctx));
  } catch (const Error& error) {
    if (error.op() == definition.options.name) throw;
    gradient_fails(definition, "its gradient threw " + what_of(std::current_exception()));
  } catch (...) {
    gradient_fails(definition, "its gradient threw " + what_of(std::current_exception()));
  }
}

void gradient_custom(GradContext& ctx) {
  const CustomDefinition& definition = definition_of(ctx.raw_attrs());
  std::vector<Tensor> gradients = call_gradient(definition, ctx);
  const auto count = static_cast<std::size_t>(definition.options.inputs);
  if (gradients.size() != count) {
    gradient_fails(definition, "expected a gradient (or an undefined tensor) for each of " +
                                   std::to_string(count) + " inputs, got " +
                                   std::to_string(gradients.size()));
  }
  for (std::size_t i = 0; i < count; ++i) {
    const int input = static_cast<int>(i) + definition.first_input();
    if (!gradients[i].defined() || !ctx.needs(input)) continue;
    check_gradient(definition, ctx, input, gradients[i]);
    ctx.set(input, std::move(gradients[i]));
  }
}

// ---- definition -------------------------------------------------------------------------------------------

constexpr int most_inputs = 30;  ///< OpDef's bits, and one input of custom_gradient's own

void check_name(const std::string& name, Location at) {
  const auto allowed = [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("_.:-").find(static_cast<char>(c)) != std::string_view::npos;
  };
  if (name.empty() || !std::all_of(name.begin(), name.end(), allowed)) {
    throw Error("CustomOp", "expected a name of letters, digits and _ . : -, got \"" + name + "\"", at);
  }
  for (const OpDef* op : all_ops()) {
    if (op->name == name)
      throw Error("CustomOp", "expected a name of its own, got the built-in op \"" + name + "\"", at);
  }
}

std::uint32_t bits_of(const std::string& name, const char* what, const std::vector<int>& saved, int count,
                      int shift, Location at) {
  std::uint32_t bits = 0;
  for (int i : saved) {
    if (i < 0 || i >= count) {
      throw Error(name,
                  std::string("expected ") + what + " of at least 0 and below " + std::to_string(count) +
                      ", got " + std::to_string(i),
                  at);
    }
    bits |= bit(i + shift);
  }
  return bits;
}

const CustomDefinition* define(std::unique_ptr<CustomDefinition> definition, Location at) {
  const CustomOpOptions& options = definition->options;
  const bool composed = definition->composed != nullptr;
  check_name(options.name, at);
  if (options.inputs < 1 || options.inputs > most_inputs) {
    throw Error(options.name, "expected 1 to 30 inputs, got " + std::to_string(options.inputs), at);
  }
  const int shift = definition->first_input();
  definition->op = {
      .name = options.name,
      .infer = composed ? infer_boundary : infer_custom,
      .gradient = options.gradient ? gradient_custom : nullptr,
      .saves_inputs = bits_of(options.name, "saves_inputs", options.saves_inputs, options.inputs, shift, at),
      .saves_outputs = bits_of(options.name, "saves_outputs", options.saves_outputs, most_inputs, 0, at),
      .run = composed ? nullptr : run_custom,
      .view = composed,
      .differentiable_outputs = ~0u,
  };
  static std::mutex mutex;
  static auto* const definitions = new std::vector<std::unique_ptr<CustomDefinition>>;
  const std::lock_guard<std::mutex> lock(mutex);
  definitions->push_back(std::move(definition));
  return definitions->back().get();
}

std::vector<Tensor> record_composed(const CustomDefinition& definition, const std::vector<Tensor>& inputs,
                                    Location at) {
  const std::string& name = definition.options.name;
  if (static_cast<int>(inputs.size()) != definition.options.inputs) {
    throw Error(
        name, "expected " + inputs_text(definition.options.inputs) + ", got " + std::to_string(inputs.size()),
        at);
  }
  std::vector<Tensor> all(1);
  {
    const GradMode no_history(false);
    all[0] = definition.composed(inputs);
  }
  if (!all[0].defined()) throw Error(name, "expected a tensor from its forward, got an undefined one", at);
  all.insert(all.end(), inputs.begin(), inputs.end());
  Outputs outputs = record(definition.op, all, attrs_of(definition), at);
  std::vector<Tensor> result;
  result.push_back(std::move(outputs[0]));
  return result;
}

}  // namespace
}  // namespace fusetape::core

namespace fusetape {

using core::CustomDefinition;

namespace {

void require_place(const CustomDefinition& definition, const char* side, int i, int count) {
  if (i >= 0 && i < count) return;
  core::gradient_fails(definition, std::string("expected its gradient to name an ") + side + " below " +
                                       std::to_string(count) + ", got " + std::to_string(i));
}

void require_saved(const CustomDefinition& definition, std::uint32_t saves, const std::string& side, int i) {
  if ((saves >> i & 1u) != 0) return;
  core::gradient_fails(definition, "expected its gradient to read what saves_" + side + "s lists, got " +
                                       side + " " + std::to_string(i));
}

}  // namespace

Tensor CustomGradient::input(int i) const {
  require_place(definition_, "input", i, definition_.options.inputs);
  require_saved(definition_, definition_.op.saves_inputs >> definition_.first_input(), "input", i);
  return context_.input(i + definition_.first_input());
}

Tensor CustomGradient::output(int i) const {
  require_place(definition_, "output", i, context_.output_count());
  require_saved(definition_, definition_.op.saves_outputs, "output", i);
  return context_.output(i);
}

const Shape& CustomGradient::input_shape(int i) const {
  require_place(definition_, "input", i, definition_.options.inputs);
  return context_.input_shape(i + definition_.first_input());
}

bool CustomGradient::needs(int i) const {
  require_place(definition_, "input", i, definition_.options.inputs);
  return context_.needs(i + definition_.first_input());
}

Tensor CustomGradient::incoming(int i) const {
  require_place(definition_, "output", i, context_.output_count());
  return context_.incoming(i);
}

bool CustomGradient::has_incoming(int i) const {
  require_place(definition_, "output", i, context_.output_count());
  return context_.has_incoming(i);
}

CustomOp::CustomOp(CustomOpOptions options, Location at) {
  if (!options.forward)
    throw Error("CustomOp", "expected a forward for \"" + options.name + "\", got none", at);
  auto definition = std::make_unique<CustomDefinition>();
  definition->options = std::move(options);
  definition_ = core::define(std::move(definition), at);
}

CustomOp custom_gradient(CustomGradientOptions options, Location at) {
  if (!options.forward || !options.gradient) {
    throw Error("custom_gradient",
                "expected a forward and a gradient for \"" + options.name + "\", got one or none", at);
  }
  auto definition = std::make_unique<CustomDefinition>();
  definition->composed = std::move(options.forward);
  definition->options = {.name = std::move(options.name),
                         .inputs = options.inputs,
                         .gradient = std::move(options.gradient),
                         .saves_inputs = std::move(options.saves_inputs),
                         .saves_outputs = options.saves_output ? std::vector<int>{0} : std::vector<int>{}};
  return CustomOp(core::define(std::move(definition), at));
}

std::vector<Tensor> CustomOp::operator()(const std::vector<Tensor>& inputs, Location at) const {
  if (definition_->composed) return core::record_composed(*definition_, inputs, at);
  core::Outputs outputs = core::record(definition_->op, inputs, core::attrs_of(*definition_), at);
  return {std::make_move_iterator(outputs.begin()), std::make_move_iterator(outputs.end())};
}

Tensor CustomOp::one(const std::vector<Tensor>& inputs, Location at) const {
  std::vector<Tensor> outputs = (*this)(inputs, at);
  if (outputs.size() != 1)
    throw Error(name(), "expected one output, got " + std::to_string(outputs.size()), at);
  return std::move(outputs[0]);
}

const std::string& CustomOp::name() const { return definition_->options.name; }

}  // namespace fusetape
