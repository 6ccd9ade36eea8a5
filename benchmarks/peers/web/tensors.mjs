// Tensors of onnxruntime's JavaScript packages, to and from safetensors (see ../cases.py).

const TYPES = {
  F32: ["float32", Float32Array],
  F64: ["float64", Float64Array],
  I32: ["int32", Int32Array],
  I64: ["int64", BigInt64Array],
  BOOL: ["bool", Uint8Array],
};
const CODES = Object.fromEntries(Object.entries(TYPES).map(([code, [type]]) => [type, code]));

/** ArrayBuffer → {name: ort.Tensor}. */
export function unpack(ort, buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(header)) {
    const [type, Kind] = TYPES[dtype];
    tensors[name] = new ort.Tensor(type, new Kind(buffer.slice(8 + length + start, 8 + length + end)), shape);
  }
  return tensors;
}

/** {name: ort.Tensor} → Blob. */
export function pack(tensors) {
  const header = {};
  const parts = [];
  let offset = 0;
  for (const [name, tensor] of Object.entries(tensors)) {
    const end = offset + tensor.data.byteLength;
    header[name] = { dtype: CODES[tensor.type], shape: tensor.dims, data_offsets: [offset, end] };
    parts.push(tensor.data);
    offset = end;
  }
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = new DataView(new ArrayBuffer(8));
  length.setBigUint64(0, BigInt(text.length), true);
  return new Blob([length, text, ...parts]);
}
