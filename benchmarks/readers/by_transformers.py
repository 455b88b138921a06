"""Read folders with the transformers of this Python; print what it writes, a JSON line a folder.

Usage: PYTHON by_transformers.py ASK.json FOLDER...
"""

import json
import sys
import warnings
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

warnings.simplefilter("ignore")
transformers.logging.set_verbosity_error()
ask = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
n_new = ask["n_new"]
print(json.dumps({"version": transformers.__version__}), flush=True)
for folder in sys.argv[2:]:
    try:
        split = AutoTokenizer.from_pretrained(folder)(ask["text"])["input_ids"]
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True
        )
        wrong = sorted([*loaded["missing_keys"], *loaded["unexpected_keys"]])
        if wrong:
            raise ValueError(f"{len(wrong)} tensors are missing or unexpected: {wrong[0]}")
        prompt = torch.tensor([ask["prompt"]])
        made = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=n_new,
            min_new_tokens=n_new,
            do_sample=False,
        )
        told = {"split": split, "tokens": made[0, prompt.shape[1] :].tolist()}
    except Exception as error:  # noqa: BLE001  # of another program; it is written down
        told = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"model": folder, **told}), flush=True)
