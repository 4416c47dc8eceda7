#include "src/model/stage_transfers.h"

#include "kernels/common/error.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

BufferView buffer(const at::Tensor& t) {
  QAT_CHECK(t.is_contiguous() && (t.scalar_type() == at::kFloat || t.scalar_type() == at::kBFloat16),
            "stages exchange dense fp32 or bf16");
  return {t.data_ptr(), t.numel(), t.scalar_type() == at::kFloat ? DType::kFloat32 : DType::kBFloat16,
          t.is_cuda() ? Device::kCuda : Device::kCpu};
}

int tag_of(StageMessage kind) { return static_cast<int>(kind); }

}  // namespace

void StageTransfers::send(StageMessage kind, const at::Tensor& values, int stage) {
  kept_.push_back(values.detach().contiguous());
  const BufferView view = buffer(kept_.back());
  sends_.push_back(
      {.data = {view.data, view.elems, view.dtype, view.device}, .destination = stage, .tag = tag_of(kind)});
}

void StageTransfers::receive(StageMessage kind, const at::Tensor& into, int stage) {
  kept_.push_back(into);
  receives_.push_back({.data = buffer(into), .source = stage, .tag = tag_of(kind)});
}

void StageTransfers::run() {
  if (!any()) return;
  pipeline_.exchange(sends_, receives_, exec_for(kept_.front()).stream);
  kept_.clear(), sends_.clear(), receives_.clear();
}

at::Tensor hidden_over_stages(const Gpt2& model, const dist::Grid& grid, const at::Tensor& tokens,
                              const ForwardContext& context) {
  if (grid.stages() == 1) return model.hidden(tokens, context);
  StageTransfers transfers(grid.pipeline());
  ModelInput input;
  if (grid.is_first_stage()) {
    input.tokens = tokens;
  } else {
    input.states = at::empty({tokens.size(0), tokens.size(1), model.config().n_embd},
                             at::TensorOptions().dtype(model.mode().dtype).device(model.mode().device));
    transfers.receive(StageMessage::kForward, input.states, grid.stage() - 1);
    transfers.run();
  }
  if (grid.is_last_stage()) return model.forward(input, context).output;
  const auto hand_on = [&](const at::Tensor& output) {
    transfers.send(StageMessage::kForward, output, grid.stage() + 1);
    transfers.run();
  };
  at::Tensor output;
  try {
    output = model.forward(input, context).output;
  } catch (const Error&) {  // the stages that follow wait for this one
    hand_on(at::zeros({tokens.size(0), tokens.size(1), model.config().n_embd},
                      at::TensorOptions().dtype(model.mode().dtype).device(model.mode().device)));
    throw;
  }
  hand_on(output);
  return {};
}

}  // namespace qat
