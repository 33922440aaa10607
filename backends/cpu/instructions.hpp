#pragma once
#include <string>

namespace fusetape::backends::cpu {

/// Asks oneDNN, before it is used, for no more than avx512_core_bf16: version 3.2 has known faults in its AMX
/// kernels (bf16 weight gradients, mended in 3.6), and ours have not been checked on such a CPU. A lower
/// limit of ONEDNN_MAX_CPU_ISA stays; a higher one does not count. FUSETAPE_ISA=avx2 leaves oneDNN and our
/// own kernels what a CPU without AVX-512 has; throws an Error for another text. Returns what explain() says
/// of it: empty where nothing is left unused.
std::string limit_instructions();

/// Whether oneDNN multiplies bf16 in one instruction here (AVX-512 BF16): ours widen it first.
bool multiplies_bf16();

}  // namespace fusetape::backends::cpu
