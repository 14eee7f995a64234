"""A GGUF file rewritten as a Hugging Face folder in float32.

Run as a program of its own (`python -P convert.py GGUF OUT`), so that the gigabyte it takes, and what transformers
prints meanwhile, end with it. It prints `step N of M` as it goes on.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.progress import Progress

_STEPS = 4
_STEP = re.compile(rf"step (\d) of {_STEPS}")


def convert_gguf(gguf: Path, out: Path, *, progress: Progress) -> None:
    """Rewrite a GGUF model and its tokenizer as a Hugging Face folder, in a child process.

    Raises:
        ModelError: transformers cannot read the file.
    """
    from models.child import ChildError, run_python  # noqa: PLC0415 - not known to the child
    from models.error import ModelError  # noqa: PLC0415 - not known to the child

    title = f"Converting {gguf.name}"

    def advance(line: str) -> None:
        if step := _STEP.fullmatch(line):
            progress(title, int(step[1]), _STEPS)

    progress(title, 0, _STEPS)
    quiet = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        # -P: the files beside this one must not hide packages of the same name.
        run_python(["-P", __file__, str(gguf), str(out)], on_line=advance, folder=gguf.parent, environment=quiet)
    except ChildError as error:
        raise ModelError(
            f"The model file {gguf.name} cannot be converted. Check that torch, transformers, gguf and accelerate "
            f"are installed (pip install 'sled-mqtt[models]'). The converter said:\n{error}"
        ) from error


def _convert(gguf: Path, out: Path) -> None:
    import torch  # noqa: PLC0415 - in the child only
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - in the child only

    _say(1)
    model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    _say(2)
    # The weights are plain float32 now. Left as they are, these two would make saving and exporting refuse.
    model.hf_quantizer = None
    for leftover in ("quantization_config", "_model_name_or_path"):
        if hasattr(model.config, leftover):
            delattr(model.config, leftover)
    model.config._name_or_path = ""
    model.save_pretrained(str(out))
    _say(3)
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(str(out))
    _say(4)


def _say(step: int) -> None:
    sys.stdout.write(f"step {step} of {_STEPS}\n")


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]))
