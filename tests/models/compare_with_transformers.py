#!/usr/bin/env python3
"""Compares models, in and out, with Hugging Face's transformers and peft; and checkpoints with h5py.

  python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers peft safetensors h5py
  /tmp/venv/bin/python tests/models/compare_with_transformers.py build/qat_dist [--gpt2] [--keep FOLDER]

Nothing is downloaded: models have random weights, also biases and norms. --gpt2 adds one of GPT-2's size (124M). Prints
the largest difference of any logit, in fp32, and exits with 1 if one is above 1e-4 (or another check fails).
"""
import argparse
import json
import pathlib
import re
import sys
import tempfile

import h5py
import numpy
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

from checks import check, failures, run

LIMIT = 1e-4
ROOT = pathlib.Path(__file__).resolve().parents[2]
class Comparison:
    def __init__(self, program, work):
        self.program, self.work = program, work

    def qat(self, *arguments):
        return run(self.program, *arguments)

    def our_logits(self, checkpoint, ids, bits):
        file = self.work / "logits.safetensors"
        self.qat("logits", "--checkpoint", checkpoint, "--ids", ",".join(map(str, ids)), "--bits", bits, "-o", file,
                 "--overwrite")
        return load_file(file)["logits"]

    def compare(self, what, model, checkpoint, bits=32, length=None):
        config = model.config
        length = length or min(48, config.n_positions)
        ids = torch.randint(0, config.vocab_size, (length,), generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            theirs = model(ids[None]).logits[0]
        ours = self.our_logits(checkpoint, ids.tolist(), bits)
        difference = (ours - theirs).abs().max().item()
        check(what, difference <= LIMIT, f"{difference:.1e} of logits up to {theirs.abs().max().item():.1f}")


def gpt2(seed=1, **sizes):
    """With biases and norms that are not at their initial values, and logits of the size that trained models have."""
    torch.manual_seed(seed)
    sizes = {"n_layer": 3, "n_head": 4, "n_embd": 64, "n_positions": 96, "vocab_size": 300} | sizes
    end = sizes["vocab_size"] - 1
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=end, eos_token_id=end)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif ".ln_" in name:
                parameter.normal_(1, 0.2)
            else:
                parameter.mul_(3)
    return model


def load(folder):
    return transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()


def rewrite(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def models_in(work):
    """Folders as they are found: name, folder, and the model that transformers makes of it."""
    yield "tied", lambda f: gpt2().save_pretrained(f)
    yield "untied", lambda f: gpt2(tie_word_embeddings=False).save_pretrained(f)
    yield "several files", lambda f: gpt2().save_pretrained(f, max_shard_size="200KB")
    yield "bf16", lambda f: gpt2().to(torch.bfloat16).save_pretrained(f)
    yield "fp16", lambda f: gpt2().to(torch.float16).save_pretrained(f)

    def without_prefix(folder):
        gpt2().save_pretrained(folder)
        rewrite(folder, lambda t: {name.removeprefix("transformer."): value for name, value in t.items()})

    def both_equal_with_masks(folder):
        gpt2().save_pretrained(folder)
        rewrite(folder, lambda t: t | {"lm_head.weight": t["transformer.wte.weight"].clone(),
                                       "transformer.h.0.attn.bias": torch.ones(1, 1, 96, 96, dtype=torch.bool),
                                       "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)})

    yield "without the prefix", without_prefix
    yield "wte and an equal lm_head, masks", both_equal_with_masks


def compare_in(comparison, big):
    for name, make in models_in(comparison.work):
        folder, checkpoint = comparison.work / f"in {name}", comparison.work / f"checkpoint {name}"
        make(folder)
        comparison.qat("import", folder, "-o", checkpoint)
        comparison.compare(f"in, {name}", load(folder), checkpoint)
        out = comparison.work / f"out {name}"
        dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(name, "float32")
        comparison.qat("export", "--checkpoint", checkpoint, "-o", out, "--dtype", dtype)
        before, after = load(folder).state_dict(), load(out).state_dict()
        same = before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
        check(f"in and out again, {name}: equal tensors", same, f"{len(before)}")

    # What transformers makes of one matrix under lm_head's name is another matter: compare with the model itself.
    model = gpt2()
    folder = comparison.work / "in only lm_head"
    model.save_pretrained(folder)
    rewrite(folder, lambda t: {name.replace("transformer.wte", "lm_head"): value for name, value in t.items()})
    comparison.qat("import", folder, "-o", comparison.work / "checkpoint only lm_head")
    comparison.compare("in, only lm_head", model, comparison.work / "checkpoint only lm_head")

    if big:
        model = gpt2(n_layer=12, n_head=12, n_embd=768, n_positions=1024, vocab_size=50257)
        folder = comparison.work / "in gpt2"
        model.save_pretrained(folder)
        comparison.qat("import", folder, "-o", comparison.work / "checkpoint gpt2")
        comparison.compare("in, 124M", model, comparison.work / "checkpoint gpt2", length=256)


def compare_out(comparison):
    """A run whose activations stay as they are: at 4 bits it computes what its exported weights do."""
    for head in ("false", "true"):
        folder = comparison.work / f"run {head}"
        comparison.qat("--config", ROOT / "configs/tiny_cpu.json", "--set", f"run.dir={folder}", "--set",
                       "quant.activation_bits=32", "--set", "eval.bits=[32]", "--set", f"model.quantize_lm_head={head}")
        name = "quantized head" if head == "true" else "plain head"

        def export(part, bits):
            out = comparison.work / f"{part} {bits} {head}"
            comparison.qat("export", "--checkpoint", folder, "-o", out, "--part", part, "--bits", bits,
                           "--overwrite")
            return out

        comparison.compare(f"out, {name}, base", load(export("base", 32)), folder)
        for bits in (4, 8):
            comparison.compare(f"out, {name}, merged at {bits} bits", load(export("merged", bits)), folder, bits)
            base = load(export("base", bits))
            model = peft.PeftModel.from_pretrained(base, export("adapter", bits)).eval()
            comparison.compare(f"out, {name}, peft at {bits} bits", model, folder, bits)
        base, stored = load(export("base", 32)), export("adapter", 32)
        expected = {name: value.clone() for name, value in base.state_dict().items()}
        adapter = load_file(stored / "adapter_model.safetensors")
        config = json.loads((stored / "adapter_config.json").read_text())
        scaling = config["lora_alpha"] / config["r"]
        model = peft.PeftModel.from_pretrained(base, stored).merge_and_unload()
        worst = 0.0
        for layer in (n.removesuffix(".lora_A.weight") for n in adapter if n.endswith("lora_A.weight")):
            ours = scaling * adapter[layer + ".lora_B.weight"] @ adapter[layer + ".lora_A.weight"]
            weight = layer.removeprefix("base_model.model.") + ".weight"
            change = model.state_dict()[weight] - expected[weight]
            worst = max(worst, (change - (ours if weight == "lm_head.weight" else ours.T)).abs().max().item())
        check(f"out, {name}, peft's scaling of stored adapters", worst < 1e-6 and ours.abs().max() > 1e-3, f"{worst:.1e}")


def compare_checkpoint(comparison):
    """docs/checkpoints.md, of a run on two ranks: every tensor whole, and made of the ranks' pieces, each once."""
    folder = comparison.work / "run of two"
    run(ROOT / "launch/run_local.sh", "-n", 2, comparison.program, "--config", ROOT / "configs/tiny_cpu.json", "--set",
        f"run.dir={folder}", "--set", "eval.bits=[32]")
    folder = folder / "checkpoints/step_00000020"
    pieces = {}
    for file in sorted(folder.glob("rank_*.h5")):
        with h5py.File(file) as shard:
            def add(name, item):
                if isinstance(item, h5py.Dataset):
                    tensor, first = name.rsplit("@", 1)
                    pieces.setdefault(tensor, []).append((int(first), item[:]))
            shard.visititems(add)
    with h5py.File(folder / "checkpoint.h5") as whole:
        tensors, wrong = {}, []
        whole.visititems(lambda name, item: tensors.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        virtual = [name for name, item in tensors.items() if item.is_virtual]
        for name in virtual:
            flat = tensors[name][...].reshape(-1)
            parts = sorted(pieces.get(name, []), key=lambda part: part[0])
            joined = numpy.concatenate([values for _, values in parts]) if parts else numpy.empty(0)
            firsts = [first for first, _ in parts]
            lengths = [0, *numpy.cumsum([len(values) for _, values in parts])]
            if firsts != lengths[:-1] or not numpy.array_equal(flat, joined) or not numpy.isfinite(flat).all():
                wrong.append(name)
        step = int(whole.attrs["step"])
        layouts = all(item.attrs.get("layout") in ("[out, in]", b"[out, in]") for name, item in tensors.items()
                      if name.startswith("model/") and len(item.shape) == 2)
        split = sum(len(parts) > 1 for parts in pieces.values())
    ranks = len(list(folder.glob("rank_*.h5")))
    check("h5py, two ranks: virtual tensors equal the ranks' pieces",
          not wrong and set(virtual) == set(pieces) and ranks == 2 and split > 0 and step == 20 and layouts,
          f"{len(virtual)} tensors, {split} of several pieces, {ranks} files{', wrong: ' + str(wrong) if wrong else ''}")
    # The same parameters by another way.
    out = comparison.work / "out of two"
    comparison.qat("export", "--checkpoint", folder, "-o", out, "--part", "base")
    exported = load_file(out / "model.safetensors")
    with h5py.File(folder / "checkpoint.h5") as whole:
        conv = re.compile(r"c_(attn|proj|fc)\.weight$")
        same = all(torch.equal(torch.from_numpy(whole["model"][name][...]), value.T if conv.search(name) else value)
                   for name, value in exported.items())
    check("h5py, two ranks: parameters equal those exported", same, f"{len(exported)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda text: pathlib.Path(text).resolve())
    parser.add_argument("--gpt2", action="store_true", help="also a model of 124M parameters")
    parser.add_argument("--keep", type=pathlib.Path, help="work in this new folder, and leave it")
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.keep:
            arguments.keep.mkdir(parents=True)
        comparison = Comparison(arguments.program, (arguments.keep or pathlib.Path(scratch)).resolve())
        compare_in(comparison, arguments.gpt2)
        compare_out(comparison)
        compare_checkpoint(comparison)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}, "
          f"h5py {h5py.__version__}: {'all good' if not failures else str(len(failures)) + ' FAILED'}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
