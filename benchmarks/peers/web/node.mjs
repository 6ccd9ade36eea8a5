// node node.mjs PACKAGE FOLDER OUT NAME…, with PACKAGE onnxruntime-web or onnxruntime-node.
// Prints the package's version first.

import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { runCases } from "./cases.mjs";

const [name, folder, out, ...names] = process.argv.slice(2);
const load = createRequire(import.meta.url);
const ort = load(name);
ort.env.logLevel = "error";
if (name === "onnxruntime-web") ort.env.wasm.numThreads = 1;
const versions = ort.env.versions;
console.log(`${name} ${versions.web ?? versions.node ?? versions.common}, Node ${process.version}`);

async function read(file) {
  const bytes = await readFile(join(folder, file));
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
}

async function write(file, blob) {
  await writeFile(join(out, file), new Uint8Array(await blob.arrayBuffer()));
}

await runCases({ ...ort, provider: name === "onnxruntime-web" ? "wasm" : "cpu" }, names, read, write);
