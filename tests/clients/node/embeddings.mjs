// Embeddings: both encodings, every kind of input, and the SDK's own error classes for what cannot be embedded.

import assert from "node:assert/strict";
import { check, client, expect, model, run, sdk, who } from "./checks.mjs";

const openai = client();
const dimensions = 64;

function embed(input, changes = {}) {
  return openai.embeddings.create({ model, input, ...changes });
}

function same(one, other) {
  assert.equal(one.length, other.length);
  one.forEach((number, at) => assert.ok(Math.abs(number - other[at]) < 1e-6, `${number} ${other[at]}`));
}

check("a text becomes a vector", async () => {
  // The SDK asks for base64 where nothing is said, and decodes it by itself.
  const answer = await embed("t22");
  assert.equal(answer.object, "list");
  assert.equal(answer.model, model);
  assert.equal(answer.data.length, 1);
  assert.equal(answer.data[0].object, "embedding");
  assert.equal(answer.data[0].index, 0);
  assert.equal(answer.data[0].embedding.length, dimensions);
});

check("both encodings hold the same numbers", async () => {
  const { embedding } = (await embed("t22", { encoding_format: "float" })).data[0];
  assert.ok(Array.isArray(embedding));
  same((await embed("t22")).data[0].embedding, embedding);
});

check("several texts keep their order and token ids are read as they are", async () => {
  const { data, usage } = await embed(["t2", "t22", "t3"]);
  assert.deepEqual(data.map(({ index }) => index), [0, 1, 2]);
  same(data[1].embedding, (await embed([22])).data[0].embedding);
  same(data[1].embedding, (await embed([[30, 5], [22]])).data[1].embedding);
  assert.equal(usage.prompt_tokens, 3);
  assert.equal(usage.total_tokens, 3);
  assert.ok(usage.cost > 0);
});

check("what cannot be embedded names its field", async () => {
  for (const [input, param] of [["", "input"], [["t2", ""], "input[1]"], [Array(131).fill(2), "input"]]) {
    const error = await expect(sdk.BadRequestError, () => embed(input));
    assert.equal(error.param, param);
  }
  const error = await expect(sdk.BadRequestError, () => embed("t2", { dimensions: 8 }));
  assert.equal(error.param, "dimensions");
});

check("a chat with it is a bad request", async () => {
  const chat = () => openai.chat.completions.create({ model, messages: who });
  const error = await expect(sdk.BadRequestError, chat);
  assert.equal(error.param, "model");
});

await run();
