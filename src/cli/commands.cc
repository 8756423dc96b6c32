#include <array>
#include <span>

#include "src/cli/command.h"

namespace nibble {
namespace {

constexpr std::array<Command, 9> kCommands = {{
    {"quantize", "quantize a checkpoint", declare_quantize},
    {"calibrate", "run a dataset through a model once, keep the statistics", declare_calibrate},
    {"evaluate", "perplexity; with a reference also KL divergence and agreement", declare_evaluate},
    {"export", "repack the same codes into another format, or say why that is not exact",
     declare_export},
    {"inspect", "what is in a checkpoint", declare_inspect},
    {"verify", "manifest, shapes, decode: is this quantized checkpoint sound", declare_verify},
    {"generate", "continue a prompt", declare_generate},
    {"bench", "this machine's figures: errors and speed of the kernels", declare_bench},
    {"list", "methods, solvers, transforms, schemes, formats, architectures", declare_list},
}};

}  // namespace

std::span<const Command> commands() { return kCommands; }

}  // namespace nibble
