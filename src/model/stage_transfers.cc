#include "src/model/stage_transfers.h"

#include <ATen/ATen.h>

#include <exception>

#include "kernels/common/error.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

BufferView buffer(const at::Tensor& t) {
  const at::ScalarType type = t.scalar_type();
  QAT_CHECK(t.is_contiguous() && (type == at::kFloat || type == at::kBFloat16 || type == at::kByte),
            "stages exchange dense fp32, bf16 or codes");
  const DType dtype = type == at::kByte ? DType::kUInt8 : type == at::kFloat ? DType::kFloat32 : DType::kBFloat16;
  return {t.data_ptr(), t.numel(), dtype, t.is_cuda() ? Device::kCuda : Device::kCpu};
}

int tag_of(StageMessage kind) { return static_cast<int>(kind); }

// A message of codes: the rows' scales, then their codes.
struct CodedShape {
  std::int64_t rows = 0, cols = 0;
  bool halves = false;  // two codes a byte

  CodedShape(const at::Tensor& values, const kernels::EncodeOptions& codes)
      : rows(values.numel() / values.size(-1)),
        cols(values.size(-1)),
        halves(codes.width.bits() <= 4 && values.size(-1) % 2 == 0) {}
  // Codes begin where any kernel may.
  std::int64_t scale_bytes() const { return (rows * static_cast<std::int64_t>(sizeof(float)) + 255) / 256 * 256; }
  std::int64_t row_bytes() const { return halves ? cols / 2 : cols; }
  std::int64_t bytes() const { return scale_bytes() + rows * row_bytes(); }
  at::Tensor message(at::Device device) const {
    return at::empty({bytes()}, at::TensorOptions().dtype(at::kByte).device(device));
  }
  at::Tensor scales(const at::Tensor& message) const {
    return message.narrow(0, 0, scale_bytes()).view(at::kFloat).narrow(0, 0, rows);
  }
  at::Tensor codes(const at::Tensor& message) const {
    return message.narrow(0, scale_bytes(), rows * row_bytes()).view(at::kChar).view({rows, row_bytes()});
  }
};

at::Tensor encoded(const at::Tensor& values, const kernels::EncodeOptions& options) {
  const CodedShape shape(values, options);
  const at::Tensor x = values.view({shape.rows, shape.cols}), message = shape.message(values.device());
  at::Tensor to = shape.codes(message);
  const at::Tensor whole = shape.halves ? at::empty({shape.rows, shape.cols}, to.options()) : to;
  kernels::encode_rows(exec_for(values), const_float_matrix(x), options,
                       {.codes = codes(whole), .codes_transposed = {}}, span_of(shape.scales(message)));
  if (shape.halves) {  // the first in the low half
    const at::Tensor pairs = whole.view({shape.rows, shape.cols / 2, 2});
    at::bitwise_or_out(to, pairs.select(2, 0).bitwise_and(at::Scalar(15)),
                       pairs.select(2, 1).bitwise_left_shift(at::Scalar(4)));
  }
  return message;
}

void decode(const at::Tensor& message, const kernels::EncodeOptions& options, const at::Tensor& into) {
  const CodedShape shape(into, options);
  at::Tensor whole = shape.codes(message);
  if (shape.halves)  // shifts keep the sign
    whole = at::stack({whole.bitwise_left_shift(at::Scalar(4)).bitwise_right_shift(at::Scalar(4)),
                       whole.bitwise_right_shift(at::Scalar(4))},
                      2)
                .view({shape.rows, shape.cols});
  kernels::decode_rows(exec_for(into), const_codes(whole), const_span(shape.scales(message)),
                       float_matrix(into.view({shape.rows, shape.cols})));
}

}  // namespace

void StageTransfers::send(StageMessage kind, const at::Tensor& values, int stage, const TransferCodes& codes) {
  const at::NoGradGuard no_grad;
  const at::Tensor dense = values.detach().contiguous();
  kept_.push_back(codes ? encoded(dense, *codes) : dense);
  bytes_.sent += static_cast<std::int64_t>(kept_.back().nbytes());
  bytes_.bf16 += 2 * dense.numel();
  const BufferView view = buffer(kept_.back());
  sends_.push_back(
      {.data = {view.data, view.elems, view.dtype, view.device}, .destination = stage, .tag = tag_of(kind)});
}

void StageTransfers::receive(StageMessage kind, const at::Tensor& into, int stage, const TransferCodes& codes) {
  if (codes)
    coded_.push_back({.message = CodedShape(into, *codes).message(into.device()), .into = into, .codes = *codes});
  else
    kept_.push_back(into);
  receives_.push_back({.data = buffer(codes ? coded_.back().message : into), .source = stage, .tag = tag_of(kind)});
}

void StageTransfers::run() {
  if (!any()) return;
  const at::NoGradGuard no_grad;
  pipeline_.exchange(sends_, receives_, exec_for(kept_.empty() ? coded_.front().into : kept_.front()).stream);
  for (const Coded& one : coded_) decode(one.message, one.codes, one.into);
  kept_.clear(), coded_.clear(), sends_.clear(), receives_.clear();
}

at::Tensor hidden_over_stages(const Gpt2& model, const dist::Grid& grid, const at::Tensor& tokens,
                              const ForwardContext& context) {
  if (grid.stages() == 1) return model.hidden(tokens, context);
  StageTransfers transfers(grid.pipeline());
  const auto states = [&] {
    return at::empty({tokens.size(0), tokens.size(1), model.config().n_embd},
                     at::TensorOptions().dtype(model.mode().dtype).device(model.mode().device));
  };
  const int stages = grid.stages(), before = (grid.stage() + stages - 1) % stages, after = (grid.stage() + 1) % stages;
  std::exception_ptr failure;  // of a chunk: the stages that follow wait for its output all the same
  at::Tensor output;
  for (int chunk = 0; chunk < model.chunks(); ++chunk) {
    ModelInput input{.chunk = chunk};
    if (model.embeds(chunk)) {
      input.tokens = tokens;
    } else {
      transfers.receive(StageMessage::kForward, input.states = states(), before);
      transfers.run();
    }
    try {
      output = failure ? states().zero_() : model.forward(input, context).output;
    } catch (const Error&) {
      failure = std::current_exception();
      output = states().zero_();
    }
    if (model.heads(chunk)) break;
    transfers.send(StageMessage::kForward, output, after);
    transfers.run();
    output.reset();
  }
  if (failure) std::rethrow_exception(failure);
  return output;
}

}  // namespace qat
