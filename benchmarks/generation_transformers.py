#!/usr/bin/env python3
"""Transformers' speed on the shapes of benchmarks/generation.sh: GPT-2 small with random weights, greedy, bf16 on a GPU.

  python3 -m venv /tmp/venv && /tmp/venv/bin/pip install torch transformers
  /tmp/venv/bin/python benchmarks/generation_transformers.py [--device cuda] [--dtype bfloat16] [--no-cache]
"""
import argparse
import time

import torch
import transformers

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--dtype", default="bfloat16" if torch.cuda.is_available() else "float32")
parser.add_argument("--prompts", type=int, default=32)
parser.add_argument("--tokens", type=int, default=128, help="of a prompt")
parser.add_argument("--new", type=int, default=256)
parser.add_argument("--no-cache", action="store_true")
arguments = parser.parse_args()

torch.manual_seed(1)
model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
model = model.to(arguments.device, getattr(torch, arguments.dtype))
prompts = torch.randint(0, 50257, (arguments.prompts, arguments.tokens), device=arguments.device)


def seconds(new):
    begin = time.perf_counter()
    with torch.no_grad():
        found = model.generate(prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=new,
                               min_new_tokens=new, eos_token_id=50256, pad_token_id=50256,
                               use_cache=not arguments.no_cache)
    found.cpu()
    return time.perf_counter() - begin


seconds(4)  # warm-up
first, whole = seconds(1), seconds(arguments.new)
steps = arguments.prompts * (arguments.new - 1)
print(f"transformers {transformers.__version__}, {arguments.dtype} on {arguments.device}: "
      f"{arguments.prompts * arguments.new} new tokens behind {prompts.numel()} in {whole:.3g} s: prompts "
      f"{prompts.numel() / first:.0f} tokens/s, then {steps / (whole - first):.0f} tokens/s")
