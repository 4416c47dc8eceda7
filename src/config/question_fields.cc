#include "src/config/question_fields.h"

#include "src/config/field_rules.h"

namespace qat {

void add_question_fields(std::vector<Field<RunConfig>>& f) {
  using namespace rules;  // NOLINT(google-build-using-namespace): a table of rules
  using R = RunConfig;
  using M = Gpt2Config;
  using D = DataConfig;
  using E = EvalConfig;
  f.push_back(key("model.task", at(&R::model, &M::task), any(), "",
                  "language_model: the next token; span_qa: where in a text the answer to a question begins and ends "
                  "(two outputs a token in place of the output projection)"));
  f.push_back(key("model.head_dropout", at(&R::model, &M::head_dropout), dropout(), "probability",
                  "span_qa: dropout on what the head reads", {"classifier_dropout", "qa_dropout"}));
  f.push_back(
      key("data.tokenizer", at(&R::data, &D::tokenizer), any(), "",
          "how text becomes tokens: byte (257 ids) or gpt2 (50,257); span_qa: of questions and contexts; of a language "
          "model: what made the files of tokens, for generate and eval"));
  f.push_back(key("data.merges", at(&R::data, &D::merges), maybe_empty(), "",
                  "the tokenizer gpt2's merges.txt; as it is in GPT-2's published files", {"merges_file"}));
  f.push_back(key("data.window_advance", at(&R::data, &D::window_advance), between(1, 1 << 20), "tokens",
                  "span_qa: a context that does not fit is cut into windows that begin so many tokens apart",
                  {"doc_stride"}));
  f.push_back(key("data.question_tokens", at(&R::data, &D::question_tokens), between(1, 1 << 20), "tokens",
                  "span_qa: of a question that are used, at most", {"max_query_length"}));
  f.push_back(key("eval.n_best", at(&R::eval, &E::n_best), between(1, kMostOfAny), "places",
                  "span_qa: so many likeliest first tokens and last tokens are put together to answers",
                  {"n_best_size"}));
  f.push_back(key("eval.max_answer_tokens", at(&R::eval, &E::max_answer_tokens), between(1, kMostOfAny), "tokens",
                  "span_qa: of an answer, at most", {"max_answer_length"}));
  f.push_back(key("eval.null_threshold", at(&R::eval, &E::null_threshold), between(-1e6, 1e6), "logits",
                  "span_qa, questions that may have no answer: that there is none needs a score so far above the best "
                  "answer's",
                  {"null_score_diff_threshold"}));
  f.push_back(key("eval.predictions", at(&R::eval, &E::predictions), any(), "",
                  "span_qa: the final evaluation also writes its answers, predictions_<bits>.json beside the report"));
}

}  // namespace qat
