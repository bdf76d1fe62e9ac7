"""The examples run as they stand, in processes of their own where warnings are errors."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
STRICT = ["-W", "error", "-W", "ignore:`isinstance(treespec, LeafSpec)` is deprecated:FutureWarning"]
"""The second is Lightning's own, with PyTorch 2.14."""


def python(folder, *words):
    """What a program prints on the CPU."""
    done = subprocess.run(
        [sys.executable, *STRICT, *map(str, words)], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT}:{EXAMPLES}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plain_loop_learns_and_goes_on(store, tmp_path):
    first = python(tmp_path, EXAMPLES / "plain_pytorch.py", store.path, 1).splitlines()
    second = python(tmp_path, EXAMPLES / "plain_pytorch.py", store.path, 2).splitlines()
    assert [line.split(":")[0] for line in first + second] == ["epoch 1", "epoch 2"]
    assert float(second[0].split()[2]) > 0.8


PROGRAM = """
import json, sys
from pathlib import Path
import lightning
from lightning_module import Glaciers, Tiles

path, name, devices, checkpoint = sys.argv[1:]

class Watched(Glaciers):
    def training_step(self, batch, number):
        self.seen.append(batch.samples["key"].tolist())
        return super().training_step(batch, number)

    def on_train_batch_end(self, *_):
        if name == "whole" and self.global_step == 3:
            self.trainer.save_checkpoint("third.ckpt")

lightning.seed_everything(0, verbose=False)
tiles = Tiles(path, samples=40)
module = Watched(len(tiles.store.meta.bands), len(tiles.store.meta.classes))
module.seen = []
trainer = lightning.Trainer(
    accelerator="cpu", devices=int(devices), strategy="ddp" if devices != "1" else "auto", logger=False,
    max_epochs=2, enable_progress_bar=False, enable_model_summary=False,
    enable_checkpointing=False,
)
trainer.fit(module, tiles, ckpt_path=checkpoint or None)
total = sum(float(p.detach().double().sum()) for p in module.parameters())
Path(f"{name}.{trainer.global_rank}").write_text(json.dumps([module.seen, total.hex()]))
"""


def fitted(store, folder, name, *, devices=1, checkpoint=""):
    """Per rank, the keys of each training step, and the sum of the final weights."""
    (folder / "program.py").write_text(PROGRAM)
    python(folder, "program.py", store.path, name, devices, checkpoint)
    return [json.loads((folder / f"{name}.{rank}").read_text()) for rank in range(devices)]


@pytest.mark.slow
def test_lightning_goes_on_from_within_an_epoch_and_shares_batches_between_ranks(store, tmp_path):
    """Five steps an epoch; the checkpoint is of the third: Lightning keeps where the loader stands."""
    [[keys, weights]] = fitted(store, tmp_path, "whole")
    assert len(keys) == 10
    [[again, same]] = fitted(store, tmp_path, "again", checkpoint="third.ckpt")
    assert (again, same) == (keys[3:], weights)
    both = fitted(store, tmp_path, "both", devices=2)
    assert [one + two for one, two in zip(both[0][0], both[1][0], strict=True)] == keys
    assert both[0][1] == both[1][1]


def test_the_lightning_example(store, tmp_path):
    python(tmp_path, EXAMPLES / "lightning_module.py", store.path, 1)
    assert len(list(tmp_path.glob("lightning_logs/version_0/checkpoints/*.ckpt"))) == 1


def test_the_page_shows_the_example_as_it_is():
    page = (ROOT / "docs" / "own-training.md").read_text()
    [shown] = re.findall(r"```text\n(    .*?)```", page, re.S)
    assert shown in (EXAMPLES / "lightning_module.py").read_text()
