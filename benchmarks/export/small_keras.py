"""Small Keras networks through Keras' own export and tf2onnx: `small_EXPORTER_MODEL.onnx`."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import onnx
import tensorflow as tf
import tf2onnx
from common import describe, parser
from keras import layers

WIDTH, STEPS = 16, 6


def cnn() -> keras.Model:
    x = keras.Input((16, 16, 3))
    h = layers.Conv2D(WIDTH, 3, padding="same")(x)
    h = layers.MaxPooling2D()(layers.ReLU()(layers.BatchNormalization()(h)))
    h = layers.DepthwiseConv2D(3, strides=2, padding="same", activation="swish")(h)
    h = layers.UpSampling2D(2, interpolation="bilinear")(h)
    h = layers.Conv2DTranspose(8, 3, strides=2, padding="same", activation="elu")(h)
    h = layers.SeparableConv2D(8, 3, padding="valid", activation="selu")(h)
    return keras.Model(x, layers.Dense(5, "softmax")(layers.GlobalAveragePooling2D()(h)))


def rnn() -> keras.Model:
    x = keras.Input((STEPS, 8))
    h = layers.Bidirectional(layers.LSTM(WIDTH, return_sequences=True))(x)
    h = layers.GRU(WIDTH, return_sequences=True)(h)
    return keras.Model(x, layers.Dense(3)(layers.SimpleRNN(8)(h)))


def transformer() -> keras.Model:
    x = keras.Input((STEPS, 8))
    h = layers.Dense(WIDTH)(x)
    normal = layers.LayerNormalization()(h)
    h = h + layers.MultiHeadAttention(2, WIDTH // 2)(normal, normal, use_causal_mask=True)
    inner = layers.Dense(2 * WIDTH, activation="swish")(layers.LayerNormalization()(h))
    h = h + layers.Dense(WIDTH)(inner)
    return keras.Model(x, layers.Dense(4)(layers.GlobalAveragePooling1D()(h)))


def main() -> None:
    """Build, export both ways."""
    args = parser(__doc__).parse_args()
    for build in (cnn, rnn, transformer):
        keras.utils.set_random_seed(args.seed)
        model = build()
        model(tf.zeros((1, *model.input_shape[1:])))  # Keras exports what has been called
        path = args.out / f"small_keras_{build.__name__}.onnx"
        model.export(path, format="onnx", verbose=False)
        print(describe(path))
        spec = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, name="x")]
        call = tf.function(lambda x, model=model: model(x, training=False), input_signature=spec)
        proto, _ = tf2onnx.convert.from_function(call, input_signature=spec, opset=17)
        path = args.out / f"small_tf2onnx_{build.__name__}.onnx"
        onnx.save(proto, path)
        print(describe(path))


if __name__ == "__main__":
    main()
