// Runs cases (see ../cases.py) with an onnxruntime for JavaScript.

import { pack, unpack } from "./tensors.mjs";

/**
 * @param ort  onnxruntime-web or onnxruntime-node
 * @param names  of the cases
 * @param read  file name → Promise of an ArrayBuffer
 * @param write  (file name, Blob) → Promise
 */
export async function runCases(ort, names, read, write) {
  for (const name of names) {
    let session;
    try {
      const model = new Uint8Array(await read(`${name}.onnx`));
      const feeds = unpack(ort, await read(`${name}.in`));
      session = await ort.InferenceSession.create(model, { executionProviders: [ort.provider], logSeverityLevel: 4 });
      await write(`${name}.out`, pack(await session.run(feeds)));
    } catch (error) {
      await write(`${name}.failed`, new Blob([String(error?.message ?? error)]));
    } finally {
      await session?.release();
    }
  }
}
