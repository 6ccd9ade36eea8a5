"""Train a Keras digit classifier on channels-last images; convert it with tf2onnx."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import numpy as np
import tensorflow as tf
import tf2onnx
from common import Array, finish, load_digits_split, minibatches, seed_everything, shifted
from keras import layers

OPSET = 15


def build() -> keras.Model:
    """Three convolutions, one of them depthwise-separable, a maximum and an average pooling."""
    image = layers.Input((8, 8, 1), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="elu")(image)
    x = layers.BatchNormalization()(x)
    x = layers.SeparableConv2D(32, 3, padding="same", activation="swish")(x)
    x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(48, 3, padding="same", activation="relu6")(x)
    x = layers.AveragePooling2D(2)(x)
    x = layers.Flatten()(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="probabilities")(x))


def channels_last(images: Array) -> Array:
    """(batch, 1, 8, 8) to (batch, 8, 8, 1)."""
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def main() -> None:
    seed_everything(0)
    keras.utils.set_random_seed(0)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    x_train, y_train, x_test, y_test = load_digits_split()
    epochs, size = 40, 64
    rate = keras.optimizers.schedules.CosineDecay(5e-3, epochs * (len(x_train) // size))
    model = build()
    model.compile(keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        for index in minibatches(len(x_train), size, rng):
            model.train_on_batch(channels_last(shifted(x_train[index], rng)), y_train[index])

    call = tf.function(lambda image: model(image, training=False))
    signature = (tf.TensorSpec((None, 8, 8, 1), tf.float32, name="image"),)
    proto, _ = tf2onnx.convert.from_function(call, input_signature=signature, opset=OPSET)
    held_out = channels_last(x_test)
    session = finish(
        proto,
        "digits_keras.onnx",
        lambda batch: model(batch, training=False).numpy(),
        [held_out, held_out[:1]],
    )
    probabilities = session.run(None, {session.get_inputs()[0].name: held_out})[0]
    print(f"  held-out accuracy: {np.mean(probabilities.argmax(axis=1) == y_test):.4f}")


if __name__ == "__main__":
    main()
