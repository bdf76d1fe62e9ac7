"""What stands for `glacier`, `torchrun` and `python` while a page is run: this copy, with less to do."""

import os
import sys
from pathlib import Path

PROGRAMS = {"glacier": ("-m", "glacier"), "torchrun": ("-m", "torch.distributed.run"), "python": ()}
LESS = {
    "train": (
        "--set", "train.epochs=1", "--set", "train.samples_per_epoch=16", "--set", "train.batch=8",
        "--set", "train.thresholds=false",
        "--set", "data.patch=64", "--set", "model.encoder=tu-tf_mobilenetv3_small_minimal_100",
        "--set", "model.decoder_channels=[32, 16, 16, 16, 16]",
    ),
    "benchmarks/throughput.py": ("--rounds", "1", "--steps", "6", "--size", "128"),
}  # fmt: skip
"""Word of a command -> what is put behind it; what a page gives itself comes later, and counts."""


def main(name: str, words: list[str]) -> None:
    """Become the program."""
    for word, options in LESS.items():
        if word in words and "--resume" not in words:
            words[words.index(word) + 1 : words.index(word) + 1] = options
    os.execv(sys.executable, [sys.executable, *PROGRAMS[name], *words])


def install(folder: Path) -> Path:
    """Put them into a folder for PATH."""
    folder.mkdir()
    for name in PROGRAMS:
        code = f"import sys\nfrom tests.docs.programs import main\n\nmain({name!r}, sys.argv[1:])\n"
        (folder / name).write_text(f"#!{sys.executable}\n{code}")
        (folder / name).chmod(0o755)
    return folder
