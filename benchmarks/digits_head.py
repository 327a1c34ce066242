"""Accuracy of the digits task with a frozen backbone and only the head trained.

Trains logistic regression on the backbone's features of all private data in one
place, more than any federated head sees. Run: python benchmarks/digits_head.py
"""

import torch
from sklearn.linear_model import LogisticRegression

from flasc_flwr.app.tasks.digits import parts
from flasc_flwr.app.tasks.digits_backbone import pretrained_backbone


def main() -> None:
    public, private, test = parts()
    backbone = pretrained_backbone(public["pixel_values"], public["labels"]).eval()

    @torch.no_grad()
    def features(examples):
        hidden = backbone.vit(examples["pixel_values"]).last_hidden_state
        return hidden[:, 0].numpy()

    for c in (0.01, 0.1, 1.0, 10.0):
        head = LogisticRegression(C=c, max_iter=5000)
        head.fit(features(private), private["labels"])
        accuracy = head.score(features(test), test["labels"])
        print(f"frozen backbone, trained head, C = {c:<5}: {100 * accuracy:.1f} %")


if __name__ == "__main__":
    main()
