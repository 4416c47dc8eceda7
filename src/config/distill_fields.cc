// The keys of section "distill". Internal to src/config.
#include "src/config/field_rules.h"

namespace qat {

using rules::any;
using rules::between;
using rules::from;
using rules::key;
using rules::kMostOfAny;
using rules::list;

void add_distill_fields(std::vector<Field<RunConfig>>& f) {
  using R = RunConfig;
  using D = DistillConfig;
  f.push_back(key("distill.teacher", at(&R::distill, &D::teacher), any(), "",
                  "whom passes below 32 bits learn from: none; full, the same parameters at 32 bits; wider, that and "
                  "every wider width that the step trains (train.recipe sp and instantnet); auto: full with sp, wider "
                  "with instantnet, else none",
                  {"use_kd", "use_distillation"}));
  f.push_back(key(
      "distill.weight", at(&R::distill, &D::weight), from(0), "",
      "of temperature^2 * KL(teacher || pass), the mean over tokens or questions' windows, in the loss of a pass that "
      "is taught",
      {"kd_weight", "alpha_kl", "distillation_alpha"}));
  f.push_back(key("distill.cross_entropy", at(&R::distill, &D::cross_entropy), from(0), "",
                  "of the cross-entropy in the loss of a pass that is taught; others have it alone", {"ce_weight"}));
  f.push_back(key("distill.temperature", at(&R::distill, &D::temperature), between(0.01, 1000), "",
                  "what logits are divided by, the teachers' and the pass's",
                  {"kd_temperature", "distill_temperature", "distillation_temperature"}));
  f.push_back(
      key("distill.features", at(&R::distill, &D::features), from(0), "",
          "of the mean squared difference from the 32-bit teacher's hidden states in that loss; 0: they are not "
          "compared",
          {"alpha_feature", "feature_weight", "distill_alpha_feature"}));
  f.push_back(key("distill.feature_layers", at(&R::distill, &D::feature_layers),
                  list(between(0, 1024), /*empty_allowed=*/true, /*unique=*/true), "",
                  "hidden states that may be compared: 0 to model.n_layer - 1 enter the block of that number, "
                  "model.n_layer follows the last norm; empty: all"));
  f.push_back(key("distill.feature_pick", at(&R::distill, &D::feature_pick), any(), "",
                  "a pass compares one of them, drawn at random, or the mean over all"));
  f.push_back(key("distill.start_step", at(&R::distill, &D::start_step), between(0, 1e9), "steps",
                  "before it nobody is taught", {"kd_start_step", "distill_warmup_steps"}));
  f.push_back(key("distill.teacher_cross_entropy", at(&R::distill, &D::teacher_cross_entropy), from(0), "",
                  "train.recipe sp: above 0, every step also trains 32 bits, on the cross-entropy times this; 0: the "
                  "teacher learns nothing for itself"));
}

}  // namespace qat
