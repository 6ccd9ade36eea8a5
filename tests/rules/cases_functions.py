"""Operators that are functions of others: onnxruntime's, and those that ONNX defines so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from helpers import Input, ints, weights
from op_case import OpCase

NO_KERNEL = "no kernel on a CPU"

_TOKENS: dict[str, Input] = {"x": ("N", 2, 4)}


def microsoft(
    name: str,
    body: str,
    inputs: Mapping[str, Input] | None = None,
    params: Mapping[str, Any] | None = None,
    **more: Any,
) -> OpCase:
    """A row with operators of onnxruntime's own domain, which `@` stands for."""
    return OpCase(
        name,
        body.replace("@", "com.microsoft."),
        inputs or _TOKENS,
        params or {},
        **more,
    )


CASES = [
    microsoft("Gelu of the runtime", "y = @Gelu(x)"),
    microsoft("BiasGelu", "y = @BiasGelu(x, b)", {**_TOKENS, "b": (4,)}),
    microsoft(
        "BiasGelu, only the bias live",
        "y = @BiasGelu(x, b)",
        {"b": (4,)},
        {"x": weights(2, 4)},
        declared={"y": (2, 4)},
    ),
    microsoft("FastGelu", "y = @FastGelu(x)"),
    microsoft("FastGelu, with a bias", "y = @FastGelu(x, b)", {**_TOKENS, "b": (4,)}),
    microsoft("QuickGelu", "y = @QuickGelu(x)"),
    microsoft("QuickGelu, a SiLU", "y = @QuickGelu<alpha=1.0>(x)"),
    microsoft(
        "BiasSplitGelu",
        "y = @BiasSplitGelu(x, b)",
        {**_TOKENS, "b": (4,)},
        declared={"y": ("N", 2, 2)},
        no_runtime=NO_KERNEL,
    ),
    microsoft(
        "BiasAdd",
        "y = @BiasAdd(x, b, s)",
        {**_TOKENS, "b": (4,), "s": ("N", 2, 4)},
        no_runtime=NO_KERNEL,
    ),
    microsoft(
        "BiasSoftmax",
        "y = @BiasSoftmax<axis=2, is_inner_broadcast=0>(x, b)",
        {**_TOKENS, "b": (2, 4)},
        no_runtime=NO_KERNEL,
    ),
    microsoft(
        "BiasDropout",
        "y = @BiasDropout(x, b, s)",
        {**_TOKENS, "b": (4,), "s": ("N", 2, 4)},
        no_runtime=NO_KERNEL,
    ),
    # products
    microsoft(
        "FusedMatMul",
        "y = @FusedMatMul<transA=1, transB=1, alpha=0.5>(a, b)",
        {"a": ("N", 3, 2), "b": ("N", 4, 3)},
        declared={"y": ("N", 2, 4)},
    ),
    microsoft(
        "FusedMatMul, batches between",
        "y = @FusedMatMul<transBatchA=1, transBatchB=1, transB=1>(a, b)",
        {"a": (2, "N", 3), "b": (4, "N", 3)},
        declared={"y": ("N", 2, 4)},
    ),
    microsoft(
        "FusedMatMul of a weight",
        "y = @FusedMatMul<transB=1>(x, w)",
        _TOKENS,
        {"w": weights(3, 4)},
        declared={"y": ("N", 2, 3)},
    ),
    microsoft(
        "FusedMatMul, only the weight live",
        "y = @FusedMatMul<transA=1>(x, w)",
        {"w": (2, 3)},
        {"x": weights(2, 4)},
        declared={"y": (4, 3)},
    ),
    microsoft(
        "TransposeMatMul",
        "y = @TransposeMatMul<transA=1, alpha=2.0>(a, b)",
        {"a": (3, 2), "b": (3, 4)},
        declared={"y": (2, 4)},
    ),
    microsoft(
        "FusedMatMulActivation",
        'y = @FusedMatMulActivation<activation="Tanh", transB=1, alpha=0.5>(x, w)',
        {**_TOKENS, "w": (3, 4)},
        declared={"y": ("N", 2, 3)},
        no_runtime=NO_KERNEL,
    ),
    microsoft(
        "GemmFastGelu",
        "y = @GemmFastGelu(x, w, b)",
        {"x": ("N", 4), "w": (4, 3), "b": (3,)},
        declared={"y": ("N", 3)},
        no_runtime=NO_KERNEL,
    ),
    *(
        microsoft(
            f"MatMulBnb4 of kind {kind}",
            f"y = @MatMulBnb4<K=17, N=3, block_size=16, quant_type={kind}>(x, q, m)",
            {"x": ("N", 2, 17), "m": (4,)},
            {"q": np.arange(7, 7 * 27, 7).astype(np.uint8)},
            declared={"y": ("N", 2, 3)},
        )
        for kind in (0, 1)
    ),
    *(
        microsoft(
            f"MoE, {what}",
            f"y = @MoE<{what}>(x, r, w, b, v, c)",
            {"x": shape, "r": (5, 4), "w": (4, wide, 2), "b": (4, wide), "v": (4, 2, 3)},
            {"c": weights(4, 2)},
            # in float32: tests/passes/test_functions.py
            evaluated="onnxruntime's kernel for float16 gives other numbers than that for float32",
        )
        for what, shape, wide in (
            ('k=2, activation_type="silu"', (5, 2), 3),
            ('k=2, activation_type="gelu", normalize_routing_weights=1', (1, 5, 2), 3),
            (
                'k=1, activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.5, '
                "activation_beta=0.5, swiglu_limit=0.7",
                (5, 2),
                6,
            ),
        )
    ),
    microsoft(
        "Rfft",
        "y = @Rfft<signal_ndim=1, onesided=1, normalized=0>(x)",
        {"x": ("N", 3, 6)},
        declared={"y": ("N", 3, 4, 2)},
        no_runtime=NO_KERNEL,
    ),
    microsoft(
        "Irfft",
        "y = @Irfft<signal_ndim=1, onesided=1, normalized=0>(x)",
        {"x": ("N", 5, 2)},
        declared={"y": ("N", 8)},
        no_runtime=NO_KERNEL,
    ),
    microsoft(
        "FusedGemm",
        'y = @FusedGemm<activation="LeakyRelu", activation_alpha=0.2, transB=1, alpha=0.5, '
        "beta=2.0>(x, w, b)",
        {"x": ("N", 4), "w": (3, 4), "b": (3,)},
        declared={"y": ("N", 3)},
    ),
    microsoft(
        "FusedGemm without a bias",
        'y = @FusedGemm<activation="Relu">(x, w)',
        {"x": ("N", 4)},
        {"w": weights(4, 3)},
        declared={"y": ("N", 3)},
    ),
    *(
        microsoft(
            f"FusedConv {name or 'of a sum'}",
            f'y = @FusedConv<activation="{name}", activation_params=[{params}], '
            "pads=[1, 1, 1, 1], kernel_shape=[3, 3]>(x, w, b, z)".replace(
                ", activation_params=[]", ""
            ).replace('activation="", ', ""),
            {"x": ("N", 2, 4, 3), "z": ("N", 3, 4, 3)},
            {"w": weights(3, 2, 3, 3), "b": weights(3)},
            declared={"y": ("N", 3, 4, 3)},
        )
        for name, params in (
            ("Relu", ""),
            ("Sigmoid", ""),
            ("Tanh", ""),
            ("LeakyRelu", "0.2"),
            ("Clip", "-0.5, 1.5"),
            ("HardSigmoid", "0.25, 0.5"),
        )
    ),
    microsoft(
        "FusedConv, all live",
        'y = @FusedConv<activation="Relu", strides=[2, 1], group=2, auto_pad="SAME_UPPER">'
        "(x, w, b)",
        {"x": ("N", 4, 4, 3), "w": (4, 2, 3, 3), "b": (4,)},
        declared={"y": ("N", 4, 2, 3)},
    ),
    microsoft(
        "NhwcConv",
        "y = @NhwcConv<pads=[1, 1, 1, 1]>(x, w, b)",
        {"x": ("N", 4, 3, 2), "w": (3, 2, 3, 3)},
        {"b": weights(3)},
        declared={"y": ("N", 4, 3, 3)},
        no_runtime=NO_KERNEL,
    ),
    microsoft(
        "NhwcFusedConv",
        'y = @NhwcFusedConv<activation="Relu">(x, w, b, z)',
        {"x": ("N", 4, 3, 2), "z": ("N", 2, 1, 3)},
        {"w": weights(3, 2, 3, 3), "b": weights(3)},
        declared={"y": ("N", 2, 1, 3)},
        no_runtime=NO_KERNEL,
    ),
    microsoft(
        "ConvTransposeWithDynamicPads",
        "y = @ConvTransposeWithDynamicPads<strides=[2, 2]>(x, w, p, b)",
        {"x": ("N", 2, 3, 2), "w": (2, 3, 3, 3)},
        {"p": ints(1, 0, 1, 1), "b": weights(3)},
        declared={"y": ("N", 3, 5, 4)},
    ),
    # normalisations
    microsoft(
        "SkipLayerNormalization",
        "y, m, i, s = @SkipLayerNormalization<epsilon=0.01>(x, t, g, h, b)".replace("m, i", ", "),
        {**_TOKENS, "t": ("N", 2, 4), "g": (4,), "h": (4,), "b": (4,)},
        outputs=("y", "s"),
    ),
    microsoft(
        "SkipLayerNormalization without shifts",
        "y = @SkipLayerNormalization(x, t, g)",
        _TOKENS,
        {"t": weights(2, 4), "g": weights(4)},
    ),
    microsoft(
        "SkipSimplifiedLayerNormalization",
        "y, , , s = @SkipSimplifiedLayerNormalization<epsilon=0.01>(x, t, g, b)",
        {**_TOKENS, "t": ("N", 2, 4), "g": (4,), "b": (4,)},
        outputs=("y", "s"),
    ),
    microsoft(
        "EmbedLayerNormalization",
        "y, c = @EmbedLayerNormalization<epsilon=0.01>(i, k, w, p, t, g, h, m)",
        {
            "w": (5, 4),
            "p": (3, 4),
            "t": (2, 4),
            "g": (4,),
            "h": (4,),
            "i": np.array([[1, 4], [0, 4]], np.int32),
            "k": np.array([[0, 1], [1, 1]], np.int32),
            "m": np.array([[1, 1], [1, 0]], np.int32),
        },
        declared={"y": (2, 2, 4)},
    ),
    microsoft(
        "EmbedLayerNormalization of words and places",
        "y, c, s = @EmbedLayerNormalization(i, , w, p, , g, h, , q)",
        {
            "w": (5, 4),
            "p": (3, 4),
            "g": (4,),
            "i": np.array([[1, 4], [0, 4]], np.int32),
            "q": np.array([[2, 1]], np.int32),
        },
        {"h": weights(4)},
        declared={"y": (2, 2, 4), "s": (2, 2, 4)},
        outputs=("y", "s"),
    ),
    microsoft(
        "GroupNorm, channels last",
        "y = @GroupNorm<activation=1, groups=2>(x, g, h)",
        {"x": ("N", 3, 2, 4), "g": (4,), "h": (4,)},
        no_runtime=NO_KERNEL,
    ),
    microsoft(
        "GroupNorm, channels first",
        "y = @GroupNorm<activation=0, groups=2, channels_last=0>(x, g, h)",
        {"x": ("N", 4, 3, 2), "g": (4,), "h": (4,)},
        no_runtime=NO_KERNEL,
    ),
    microsoft(
        "SkipGroupNorm",
        "y, s = @SkipGroupNorm<activation=0, groups=2>(x, g, h, t, b)",
        {"x": ("N", 3, 2, 4), "g": (4,), "h": (4,), "t": ("N", 4), "b": (4,)},
        outputs=("y", "s"),
        no_runtime=NO_KERNEL,
    ),
]

# -- definitions in ONNX's schemas -------------------------------------------------------------

_QKV: dict[str, Input] = {"q": ("N", 2, 3, 4), "k": ("N", 2, 5, 4), "v": ("N", 2, 5, 2)}
_FLAT: dict[str, Input] = {"q": ("N", 3, 8), "k": ("N", 5, 4), "v": ("N", 5, 6)}
_INF = float("inf")
#: hides keys, and all of them from the last query
_SPARSE = np.array([[0, -_INF, 0.3, 0, -_INF], [0, 0, 0, -_INF, 0.5], [-_INF] * 5])


def attention(
    name: str,
    body: str,
    inputs: Mapping[str, Input] = _QKV,
    params: Mapping[str, Any] | None = None,
    **more: Any,
) -> OpCase:
    reason = "the runtime attends to no empty batch"
    return OpCase(name, body, inputs, params or {}, **{"opset": 23, "not_empty": reason, **more})


CASES += [
    attention("Attention", "y = Attention(q, k, v)"),
    attention(
        "Attention of rows, grouped",
        "y = Attention<q_num_heads=4, kv_num_heads=2, is_causal=1, softcap=1.5, scale=0.7>"
        "(q, k, v)",
        _FLAT,
    ),
    attention(
        "Attention under a mask",
        "y = Attention(q, k, v, m)",
        {**_QKV, "m": ("N", 1, 3, 5)},
        opset=24,
    ),
    attention(
        "Attention under a mask that hides", "y = Attention(q, k, v, m)", _QKV, {"m": _SPARSE}
    ),
    attention(
        "Attention under a mask of booleans, the key alone live",
        "y = Attention(q, k, v, m)",
        {"k": (2, 2, 5, 4)},
        {"q": weights(2, 2, 3, 4), "v": weights(2, 2, 5, 4), "m": _SPARSE == 0},
        opset=24,
    ),
    attention(
        "Attention under a short mask",
        "y = Attention(q, k, v, m)",
        {**_QKV, "m": (3, 4)},
        opset=24,
        no_runtime="the runtime takes no mask that is too short",
    ),
    attention(
        "Attention with a past",
        "y, a, b = Attention<is_causal=1>(q, k, v, , p, r)",
        {**_QKV, "p": ("N", 2, 2, 4), "r": ("N", 2, 2, 2)},
        outputs=("y", "a", "b"),
    ),
    attention(
        "Attention of what is filled",
        "y = Attention<is_causal=1>(q, k, v, , , , n)",
        {"q": (2, 2, 3, 4), "k": (2, 2, 5, 4), "v": (2, 2, 5, 2), "n": ints(4, 3)},
        opset=24,
    ),
    *(
        attention(
            f"Attention and its scores {mode}",
            f"y, , , z = Attention<softcap=1.5, qk_matmul_output_mode={mode}>(q, k, v, m)",
            {**_QKV, "m": (3, 5)},
            outputs=("y", "z"),
        )
        for mode in range(4)
    ),
    OpCase(
        "RotaryEmbedding",
        "y = RotaryEmbedding(x, c, s)",
        {"x": ("N", 2, 3, 4), "c": ("N", 3, 2), "s": ("N", 3, 2)},
        opset=23,
        single=True,
    ),
    OpCase(
        "RotaryEmbedding of rows, by positions",
        "y = RotaryEmbedding<num_heads=2, rotary_embedding_dim=2, interleaved=1>(x, c, s, p)",
        {"x": (2, 3, 8), "p": np.array([[0, 1, 2], [3, 1, 0]])},
        {"c": weights(4, 1), "s": weights(4, 1)},
        opset=24,
        single=True,
    ),
]

# -- attention in onnxruntime's domain ---------------------------------------------------------

_X: dict[str, Input] = {"x": ("N", 3, 4)}
_PROJECTION = {"w": weights(4, 12), "b": weights(12)}
_MASK_OF_KEYS = np.array([[1, 1, 0], [1, 0, 0]], np.int32)


CASES += [
    microsoft("Attention of the runtime", "y = @Attention<num_heads=2>(x, w, b)", _X, _PROJECTION),
    microsoft(
        "Attention of the runtime, weights live",
        "y = @Attention<num_heads=2, unidirectional=1>(x, w, b)",
        {**_X, "w": (4, 12), "b": (12,)},
    ),
    microsoft(
        "Attention of the runtime, other sizes of values",
        "y = @Attention<num_heads=2, qkv_hidden_sizes=[4, 4, 6], scale=0.8>(x, w, b)",
        _X,
        {"w": weights(4, 14), "b": weights(14)},
        declared={"y": ("N", 3, 6)},
    ),
    *(
        microsoft(
            f"Attention of the runtime, {what}",
            f"y = @Attention<num_heads=2{more}>(x, w, b, m)",
            {"x": (2, 3, 4), "m": mask},
            _PROJECTION,
        )
        for what, mask, more in (
            ("a mask of keys", _MASK_OF_KEYS, ", mask_filter_value=-3.0"),
            ("a mask of pairs", np.tril(np.ones((2, 3, 3), np.int32), 1), ", unidirectional=1"),
            ("ends", np.array([2, 1], np.int32), ""),
            ("ends and starts", np.array([3, 2, 1, 0], np.int32), ", mask_filter_value=-2.0"),
        )
    ),
    microsoft(
        "Attention of the runtime, with a past",
        "y, z = @Attention<num_heads=2, unidirectional=1>(x, w, b, , p)",
        {**_X, "p": (2, "N", 2, 2, 2)},
        _PROJECTION,
        outputs=("y", "z"),
        declared={"z": (2, "N", 2, 5, 2)},
    ),
    microsoft(
        "Attention of the runtime, with a bias of scores",
        "y = @Attention<num_heads=2>(x, w, b, , , a)",
        {**_X, "a": (1, 2, 3, 3)},
        _PROJECTION,
    ),
    microsoft(
        "MultiHeadAttention",
        "y = @MultiHeadAttention<num_heads=2>(q, k, v, b, m, a)",
        {
            "q": (2, 3, 4),
            "k": (2, 3, 4),
            "v": (2, 3, 6),
            "b": (14,),
            "a": (1, 2, 3, 3),
            "m": _MASK_OF_KEYS,
        },
        declared={"y": (2, 3, 6)},
    ),
    microsoft(
        "MultiHeadAttention across",
        "y = @MultiHeadAttention<num_heads=2, scale=0.9>(q, k, v)",
        {"q": ("N", 3, 4), "k": ("N", 5, 4), "v": ("N", 5, 4)},
    ),
    microsoft(
        "MultiHeadAttention of what is packed",
        "y = @MultiHeadAttention<num_heads=2>(q)",
        {"q": ("N", 3, 2, 3, 4)},
        declared={"y": ("N", 3, 8)},
        no_runtime="the kernel for the CPU takes nothing packed",
    ),
    microsoft(
        "MultiHeadAttention of keys that are packed",
        "y = @MultiHeadAttention<num_heads=2>(q, k)",
        {"q": ("N", 3, 4), "k": ("N", 5, 2, 2, 2)},
        no_runtime="the kernel for the CPU takes nothing packed",
    ),
    microsoft(
        "MultiHeadAttention with a past",
        "y, c, d = @MultiHeadAttention<num_heads=2, unidirectional=1>(q, k, v, b, , , e, f)",
        {
            **dict.fromkeys("qkv", ("N", 3, 4)),
            "b": (12,),
            "e": ("N", 2, 2, 2),
            "f": ("N", 2, 2, 2),
        },
        outputs=("y", "c", "d"),
        declared={"c": ("N", 2, 5, 2), "d": ("N", 2, 5, 2)},
    ),
    microsoft(
        "MultiHeadAttention of keys in heads",
        "y = @MultiHeadAttention<num_heads=2>(q, k, v, b)",
        {"q": ("N", 3, 4), "k": ("N", 2, 5, 2), "v": ("N", 2, 5, 2)},
        {"b": weights(12)},
    ),
    microsoft(
        "RotaryEmbedding of the runtime",
        "y = @RotaryEmbedding(x, p, c, s)",
        {"x": ("N", 2, 3, 4), "c": (6, 2), "s": (6, 2), "p": ints(2)},
    ),
    microsoft(
        "RotaryEmbedding of the runtime, rows by positions",
        "y = @RotaryEmbedding<num_heads=2, rotary_embedding_dim=2, interleaved=1>(x, p, c, s)",
        {"x": (2, 3, 8), "p": np.array([[0, 1, 2], [3, 1, 0]])},
        {"c": weights(4, 1), "s": weights(4, 1)},
    ),
    microsoft(
        "GroupQueryAttention",
        "y, c, d = @GroupQueryAttention<num_heads=4, kv_num_heads=2>(q, k, v, , , l, t)",
        {
            "q": (2, 3, 32),
            "k": (2, 3, 16),
            "v": (2, 3, 16),
            "l": np.array([2, 2], np.int32),
            "t": np.array(3, np.int32),
        },
        outputs=("y", "c", "d"),
        declared={"c": (2, 2, 3, 8), "d": (2, 2, 3, 8)},
    ),
    microsoft(
        "GroupQueryAttention of a token, turned and packed",
        "y, c, d = @GroupQueryAttention<num_heads=2, kv_num_heads=1, do_rotary=1, softcap=2.0>"
        "(q, , , e, f, l, t, r, s)",
        {
            "q": (2, 1, 64),
            "e": (2, 1, 4, 16),
            "f": (2, 1, 4, 16),
            "l": np.array([4, 2], np.int32),
        },
        {"t": np.array(5, np.int32), "r": weights(8, 8), "s": weights(8, 8)},
        outputs=("y",),
        declared={"y": (2, 1, 32)},
    ),
    microsoft(
        "GroupQueryAttention in a window, with a share for nothing",
        "y, c, d = @GroupQueryAttention<num_heads=2, kv_num_heads=2, local_window_size=2, "
        "scale=0.8>(q, k, v, , , l, t, , , , , h)",
        {
            "q": (1, 4, 16),
            "k": (1, 4, 16),
            "v": (1, 4, 16),
            "h": (2,),
            "l": np.array([3], np.int32),
            "t": np.array(4, np.int32),
        },
        outputs=("y",),
    ),
    *(
        microsoft(
            f"MatMulNBits of {bits} bits{what}",
            f"y = @MatMulNBits<K=20, N=3, bits={bits}, block_size=16>({operands})",
            {"x": ("N", 2, 20)},
            {
                "w": np.random.default_rng(bits).integers(0, 256, (3, 2, 2 * bits), np.uint8),
                "s": weights(3, 2),
                "z": np.random.default_rng(9).integers(0, 256, (3, -(-2 * bits // 8)), np.uint8),
                "b": weights(3),
            }
            if "z" in operands
            else {
                "w": np.random.default_rng(bits).integers(0, 256, (3, 2, 2 * bits), np.uint8),
                "s": weights(3, 2),
            },
            declared={"y": ("N", 2, 3)},
        )
        for bits, what, operands in (
            (4, "", "x, w, s"),
            (4, " and zeros", "x, w, s, z, , b"),
            (8, "", "x, w, s"),
            (2, "", "x, w, s"),
        )
    ),
]

# -- others ------------------------------------------------------------------------------------

_MATRIX = {"x": ("N", 3)}

CASES += [
    microsoft("SampleOp", "y = @SampleOp(x)"),
    microsoft(
        "Trilu of the runtime", "y = @Trilu<upper=0>(x, k)", {"x": ("N", 3, 3)}, {"k": np.int64(-1)}
    ),
    microsoft(
        "GatherND of the runtime",
        "y = @GatherND(x, i)",
        {"x": (2, 3, 4)},
        {"i": np.array([[0, 2], [1, 0], [0, 2]])},
        declared={"y": (3, 4)},
    ),
    microsoft(
        "Pad of the runtime",
        "y = @Pad(x, p, f)",
        _MATRIX,
        {"p": ints(0, 1, 0, 2), "f": np.array([0.5])},
        declared={"y": ("N", 6)},
    ),
    microsoft(
        "Pad of the runtime, mirrored",
        'y = @Pad<mode="reflect">(x, p)',
        _MATRIX,
        {"p": np.array([[0, 1, 0, 2]])},
        declared={"y": ("N", 6)},
    ),
    microsoft(
        "ExpandDims",
        "y = @ExpandDims(x, a)",
        _MATRIX,
        {"a": np.int32(1)},
        declared={"y": ("N", 1, 3)},
    ),
    microsoft(
        "UnfoldTensor",
        "y = @UnfoldTensor<dim=1, size=3, step=2>(x)",
        {"x": ("N", 6, 2)},
        declared={"y": ("N", 2, 2, 3)},
        no_half="no kernel for float16",
    ),
    microsoft("Unique of the runtime", "y, i, c = @Unique(x)", {"x": (5,)}),
    microsoft(
        "CDist",
        "y = @CDist(a, b)",
        {"a": ("N", 3), "b": (4, 3)},
        declared={"y": ("N", 4)},
        no_half="no kernel for float16",
    ),
    microsoft(
        "CDist, roots",
        'y = @CDist<metric="euclidean">(a, b)',
        {"a": ("N", 3)},
        {"b": weights(4, 3)},
        declared={"y": ("N", 4)},
        no_half="no kernel for float16",
    ),
    microsoft("Inverse", "y = @Inverse(x)", {"x": ("N", 3, 3)}),
    microsoft(
        "GridSample of the runtime",
        "y = @GridSample(x, g)",
        {"x": ("N", 2, 4, 3), "g": ("N", 2, 3, 2)},
        declared={"y": ("N", 2, 2, 3)},
        opset=20,
    ),
    microsoft(
        "GatedAdd", "y = @GatedAdd(a, b, g)", {"a": ("N", 2, 3), "b": ("N", 2, 3), "g": ("N", 2, 1)}
    ),
    microsoft("ScaledSiLU", "y = @ScaledSiLU<alpha=0.7>(x)"),
    microsoft("ScaledSiLU by an operand", "y = @ScaledSiLU(x, s)", {**_TOKENS, "s": ()}),
    microsoft(
        "GatedRMSNorm",
        "y = @GatedRMSNorm(x, s, g)",
        {"x": ("N", 2, 6), "s": (3,), "g": ("N", 2, 6)},
    ),
    microsoft(
        "GatedRMSNorm by a sigmoid",
        'y = @GatedRMSNorm<activation="sigmoid">(x, s, g)',
        {"x": ("N", 2, 3), "g": ("N", 2, 3)},
        {"s": weights(3)},
    ),
]
