"""A plugin for the notebooks' regression test in ``make test``: lessons train a little. What a training prints is compared by no
test, on any machine; ``make test-nbval`` trains as long as the lessons say."""

import re

AMOUNTS = {
    "epochs": 1, "small_epochs": 1, "decoder_epochs": 1, "lstm_epochs": 1, "codec_epochs": 1, "classifier_epochs": 3,
    "passes": 1, "denoiser_steps": 50, "head_start": 1, "rounds": 10,
}  # fmt: skip


def pytest_collection_modifyitems(items):
    for item in items:
        if "parameters" in item.cell.metadata.get("tags", []):
            for name, amount in AMOUNTS.items():
                item.cell.source = re.sub(rf"^({name}: int = )\d+", rf"\g<1>{amount}", item.cell.source, flags=re.M)
