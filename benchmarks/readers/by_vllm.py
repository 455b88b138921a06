"""Read folders with vLLM on the CPU; print what it writes, a JSON line a folder.

Usage: PYTHON by_vllm.py ASK.json FOLDER...
"""

import gc
import json
import os
import sys
from pathlib import Path

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCHDYNAMO_DISABLE": "1",  # its compiler fails where the environment's path has a space
}
import vllm
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

ask = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
n_new = ask["n_new"]
greedy = SamplingParams(temperature=0.0, max_tokens=n_new, min_tokens=n_new, ignore_eos=True)
print(json.dumps({"version": vllm.__version__}), flush=True)
for folder in sys.argv[2:]:
    llm = None
    try:
        llm = LLM(
            model=folder, dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=4
        )
        split = llm.get_tokenizer()(ask["text"])["input_ids"]
        (made,) = llm.generate([{"prompt_token_ids": ask["prompt"]}], greedy, use_tqdm=False)
        told = {"split": split, "tokens": list(made.outputs[0].token_ids)}
        architecture = llm.llm_engine.model_config._model_info.architecture
        told["by"] = architecture
    except Exception as error:  # noqa: BLE001  # of another program; it is written down
        told = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({"model": folder, **told}), flush=True)
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
