#pragma once
#include <memory>
#include <span>

#include "backends/backend.hpp"

/// The CPU's kernels as one ordered list: the first candidate that supports a group makes its kernel, the
/// reference is last.
namespace fusetape::backends::cpu {

/// `supports` answers with an empty reason where the group is simply not its kind: such refusals are not
/// shown.
struct Candidate {
  const char* name;
  Support (*supports)(const plan::Graph& graph, const plan::Group& group);
  std::unique_ptr<Kernel> (*make)(const plan::Graph& graph, const plan::Group& group);
};

// Each file of kernels offers its own.
namespace conv {
std::span<const Candidate>
winograd_convolutions();                           ///< 3×3 with stride 1, with batch norms in the transforms
std::span<const Candidate> row_convolutions();     ///< 1×1 and depthwise, with batch norms on the way or not
std::span<const Candidate> onednn_convolutions();  ///< conv2d and its gradients, conv+bias+relu
}  // namespace conv
namespace matmul {
std::span<const Candidate> matrix_products();  ///< matmul: oneDNN f32, OpenBLAS f64 and where it serves
}  // namespace matmul
namespace norm {
std::span<const Candidate> batch_norms();  ///< batch_norm and its gradient, alone and with add and ReLU
std::span<const Candidate> group_norms();  ///< group_norm and its gradient, with a sum and an activation
std::span<const Candidate> bias_relu_gradients();  ///< g·[y>0] and its sum over pixels
std::span<const Candidate> relu_masks();           ///< a ReLU's mask as bits, and its gradient
}  // namespace norm
namespace pointwise {
std::span<const Candidate> pointwise_programs();  ///< every pointwise node, alone and in chains
}  // namespace pointwise
namespace reduce {
std::span<const Candidate> poolings();         ///< max and average pooling, forward and backward
std::span<const Candidate> reductions();       ///< sum, mean, max over axes; argmax
std::span<const Candidate> softmaxes();        ///< softmax, log_softmax, and gradients
std::span<const Candidate> cross_entropies();  ///< cross_entropy and its gradient
}  // namespace reduce
namespace update {
std::span<const Candidate> optimizers();  ///< updates of parameters, one or all; the norm of gradients
}  // namespace update
namespace move {
std::span<const Candidate> movements();     ///< concat, slice, pad
std::span<const Candidate> transposes();    ///< transpose
std::span<const Candidate> indexed();       ///< index_select, gather, and gradients
std::span<const Candidate> random_draws();  ///< rand, randn, dropout
}  // namespace move

}  // namespace fusetape::backends::cpu
