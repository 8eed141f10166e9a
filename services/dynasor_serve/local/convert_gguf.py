"""Turns a GGUF file into a model directory that vLLM reads. Runs in the engine's virtual environment, never
in the services'.

Started by `model_conversion.convert` as a script of its own (`python -I convert_gguf.py GGUF DIRECTORY`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch  # type: ignore[import-not-found, unused-ignore]
from transformers import (  # type: ignore[import-not-found, unused-ignore]
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
)


def main(gguf: Path, directory: Path) -> None:
    """Write weights, tokenizer and chat template of the GGUF file into the directory."""
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    model = AutoModelForCausalLM.from_pretrained(
        **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(**source).save_pretrained(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
