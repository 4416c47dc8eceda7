// The keys of section "comm". Internal to src/config.
#include "src/config/field_rules.h"

namespace qat {

using rules::any;
using rules::between;
using rules::key;
using rules::kMostOfAny;

void add_comm_fields(std::vector<Field<RunConfig>>& f) {
  using R = RunConfig;
  using C = CommConfig;
  f.push_back(
      key("comm.wire", at(&R::comm, &C::wire), any(), "",
          "how gradients of matrices travel between ranks: fp32; bf16; int8 or int4 codes with a scale for each "
          "comm.block elements; auto: fp32, unless the links, which are measured when a run starts, are so slow that "
          "bf16 or int8 makes a step much faster. Norms and biases are always fp32",
          {"gradient_bits", "grad_compression", "compression", "gradient_compression"}));
  f.push_back(key("comm.sum", at(&R::comm, &C::sum), any(), "",
                  "of int8 and int4: code_sum, ranks share their scales and codes are added exactly, in any order; "
                  "two_phase, every rank has its own scales"));
  f.push_back(key("comm.block", at(&R::comm, &C::block), between(32, 4096), "elements",
                  "that share a scale; a power of two", {"group_size", "quantization_block"}));
  f.push_back(key("comm.error_feedback", at(&R::comm, &C::error_feedback), any(), "",
                  "what bf16 or codes do not carry is added to the next gradients; takes 4 bytes a parameter on every "
                  "rank",
                  {"error_compensation"}));
  f.push_back(key("comm.stochastic_rounding", at(&R::comm, &C::stochastic_rounding), any(), "",
                  "of the codes of int8 and int4"));
  f.push_back(
      key("comm.overlap", at(&R::comm, &C::overlap), any(), "",
          "with the same bits: GPUs exchange gradients while backward runs, and updated parameters travel beside "
          "computing, before the next pass reads them (of what single widths have for themselves a GPU then holds that "
          "of two passes at a time); between pipeline stages, gradients alone, and not where train.on_out_of_memory "
          "has steps tried again",
          {"overlap_comm", "overlap"}));
  f.push_back(key("comm.weights", at(&R::comm, &C::weights), any(), "",
                  "how updated weights of linear layers come back to the other ranks, with the same bits: codes, where "
                  "all that a pass reads of them are codes by row; fp32, always"));
  f.push_back(key("comm.ranks_per_node", at(&R::comm, &C::ranks_per_node), between(0, kMostOfAny), "ranks",
                  "gradients are added inside nodes of so many neighbouring ranks first, then between nodes; 0: as the "
                  "hosts say",
                  {"gpus_per_node", "local_world_size"}));
  f.push_back(key("comm.self_check", at(&R::comm, &C::self_check), between(0, 1e6), "",
                  "the first exchange after a start is made in fp32 too: a larger relative difference ends the run "
                  "with exit code 9; "
                  "0: not compared"));
}

}  // namespace qat
