"""Programs that use an ONNX bundle without headstart: in Python, in JavaScript under Node, and on a browser's page."""

from __future__ import annotations

from collections.abc import Mapping

from headstart.exporting.bundle import Manifest
from headstart.exporting.snippets import python

_NODE = """// Say what is on a photo: node use.mjs PHOTO. Needs npm install onnxruntime-web sharp
import { readFile } from "node:fs/promises";
import * as ort from "onnxruntime-web";
import sharp from "sharp";

const beside = (name) => readFile(new URL(name, import.meta.url));
const about = JSON.parse(await beside("bundle.json"));
ort.env.logLevel = "error";
const session = await ort.InferenceSession.create(new Uint8Array(await beside("model.onnx")));

// Upright, laid over white, and without colour profiles: as the model saw its photos.
const photo = sharp(process.argv[2], { ignoreIcc: true }).rotate().flatten({ background: "white" });
const { data, info } = await photo.toColourspace("srgb").raw().toBuffer({ resolveWithObject: true });
const pixels = new ort.Tensor("uint8", new Uint8Array(data), [1, info.height, info.width, 3]);

const answer = await session.run({ pixels });
const best = [...answer.probabilities.data].map((p, k) => [p, about.classes[k]]).sort((a, b) => b[0] - a[0]);
for (const [p, name] of best.slice(0, 5)) console.log(name, p.toFixed(4));
if (about.threshold !== null && answer.distance.data[0] > about.threshold)
  console.log("unsure: this photo is like none of those that the model learnt from");
process.exit(0); // its threads would wait for more
"""

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>What is on a photo</title>
<!-- npm install onnxruntime-web, then python -m http.server in this folder, and open /use.html -->
<label>Photo: <input type="file" accept="image/*"></label>
<pre role="status"></pre>
<script type="module">
  import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

  const about = await (await fetch("bundle.json")).json();
  const session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
  const [input, status] = [document.querySelector("input"), document.querySelector("pre")];

  async function pixelsOf(file) {
    // Upright, laid over white, and without colour profiles: as the model saw its photos.
    const photo = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
    const canvas = new OffscreenCanvas(photo.width, photo.height);
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.fillStyle = "white";
    pen.fillRect(0, 0, photo.width, photo.height);
    pen.drawImage(photo, 0, 0);
    const { data } = pen.getImageData(0, 0, photo.width, photo.height);
    const rgb = data.filter((_, place) => place % 4 !== 3);
    return new ort.Tensor("uint8", new Uint8Array(rgb), [1, photo.height, photo.width, 3]);
  }

  input.addEventListener("change", async () => {
    const answer = await session.run({ pixels: await pixelsOf(input.files[0]) });
    const best = [...answer.probabilities.data].map((p, k) => [p, about.classes[k]]).sort((a, b) => b[0] - a[0]);
    const lines = best.slice(0, 5).map(([p, name]) => `${name} ${p.toFixed(4)}`);
    if (about.threshold !== null && answer.distance.data[0] > about.threshold)
      lines.push("unsure: this photo is like none of those that the model learnt from");
    status.textContent = lines.join("\\n");
  });
  status.textContent = "ready";
</script>
</html>
"""


def snippets(manifest: Manifest) -> Mapping[str, str]:
    """`use.py`, `use.mjs` and `use.html`."""
    own = python(
        needs="onnxruntime",
        imports="import onnxruntime",
        opening='path = str(bundle / "model.onnx")\n'
        'session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])',
        answering='answer = dict(zip(about["outputs"], session.run(about["outputs"], {"pixels": pixels})))',
    )
    return {"use.py": own, "use.mjs": _NODE, "use.html": _PAGE}
