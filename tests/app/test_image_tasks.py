"""Image classification, of one class and of several."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from tests.app.built import image_task
from tests.app.tiny import images, task_of, write_jsonl

pytestmark = pytest.mark.usefixtures("built_cache")


def multi_label_data(root, folder):
    """Images with zero to two of three classes, from files named in JSON lines."""
    from PIL import Image

    labels = [[0], [1, 2], [], [2], [0, 1], [1]] * 3
    for part in ("train", "test"):
        rows = []
        for number, pixels in enumerate(images(18, seed=3)[0]):
            path = folder / f"{part}-{number}.png"
            Image.fromarray(pixels).save(path)
            rows.append({"image": str(path), "label": labels[number], "user": "ab"})
        write_jsonl(folder / f"m-{part}.jsonl", rows)
    return labels


def test_several_classes_per_image_score_as_micro_f1(root, tmp_path):
    labels = multi_label_data(root, tmp_path)
    task = image_task(
        root,
        dataset=str(tmp_path / "m-*.jsonl"),
        multi_label=True,
        partitioner="iid",
        client_optimizer="adamw",
        local_epochs=3,
    )
    examples = task.data.partition(0, 2)
    task.train(examples, seed=0)
    # Small batches: counts must add up over them.
    from flasc_flwr.app.training.local import evaluate_model

    outcome = evaluate_model(task.model, task.data.test, task.config, task.score, 5)
    true = np.zeros((18, 3))
    for row, several in enumerate(labels):
        true[row, several] = 1
    with torch.no_grad():
        batch = task.data.test.batch(torch.arange(18))
        assert batch["labels"].tolist() == true.tolist()
        logits = task.model(pixel_values=batch["pixel_values"]).logits
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, torch.tensor(true, dtype=torch.float32)
    )
    f1 = f1_score(true, logits.numpy() > 0, average="micro")
    assert 0 < f1 < 1
    assert outcome.accuracy == pytest.approx(f1)
    assert outcome.loss == pytest.approx(float(expected), rel=1e-5)


def test_images_are_scaled_and_normalised_as_in_the_models_training(root, tmp_path):
    task = image_task(root)
    batch = task.data.test.batch(torch.arange(5))
    pixels, labels = images(20, seed=1)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])
    expected = ((pixels[:5] / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(batch["pixel_values"], expected, atol=1e-5)
    assert batch["labels"].tolist() == labels[:5].tolist()
    large, labels = images(4, size=40)
    np.savez(tmp_path / "large.npz", x_train=large, y_train=labels)
    batch = task.data.local_examples(str(tmp_path / "large.npz")).batch(torch.arange(4))
    assert batch["pixel_values"].shape == (4, 3, 16, 16)
    channels = large.mean((1, 2)) / 255
    np.testing.assert_allclose(
        batch["pixel_values"].mean((2, 3)).numpy() * std + mean, channels, atol=0.02
    )


def test_only_training_images_are_augmented(root):
    plain, augmented = (image_task(root, augment=a) for a in (False, True))
    chosen = torch.arange(6)
    for training in (False, True):
        torch.manual_seed(0)
        one = plain.data.test.batch(chosen, training=training)
        other = augmented.data.test.batch(chosen, training=training)
        same = torch.equal(one["pixel_values"], other["pixel_values"])
        assert same == (not training)
        assert other["pixel_values"].shape == one["pixel_values"].shape


def test_an_image_model_without_a_size_is_refused(root, tmp_path):
    from transformers import ResNetConfig, ResNetForImageClassification

    model = ResNetForImageClassification(
        ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1])
    )
    model.save_pretrained(tmp_path)
    expected = "size of its images, as image_size in config.json or as size in prepro"
    with pytest.raises(ValueError, match=expected):
        task_of(
            task="image-classification",
            model=str(tmp_path),
            dataset=str(root / "i.npz"),
        )
