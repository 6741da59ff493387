// Streams: their events as the wire has them, the SDK's helpers over them, and many at once.

import assert from "node:assert/strict";
import { check, client, collect, expect, joined, model, run, sdk, who } from "./checks.mjs";

const openai = client();
const greedy = { model, messages: who, temperature: 0 };
// First of all, so that it is computed: what was asked before may come from a cache, in one piece.
const fresh = await collect(await openai.chat.completions.create({ ...greedy, stream: true }));
const whole = await openai.chat.completions.create(greedy);
const text = whole.choices[0].message.content;

check("a stream says what the whole answer says", () => {
  const chunks = fresh;
  assert.equal(joined(chunks), text);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1, "one answer has one id");
  assert.ok(chunks.every((chunk) => chunk.object === "chat.completion.chunk"));
  const ends = chunks.map((chunk) => chunk.choices[0].finish_reason);
  assert.equal(ends.pop(), "stop");
  assert.ok(ends.every((end) => !end));
});

check("a long stream comes in pieces", async () => {
  // No lease covers all of it, so the gateway has to read, and pass on, a part before the next is made.
  const count = [{ role: "user", content: "Count up from 0 to 100" }];
  const request = { model, messages: count, temperature: 0, max_tokens: 400, stream: true };
  const chunks = await collect(await openai.chat.completions.create(request));
  assert.ok(joined(chunks).startsWith("0, 1, 2, 3"), joined(chunks));
  assert.ok(chunks.length > 5, "it came in one piece");
});

check("usage comes last when it is asked for", async () => {
  // Another length, so that it is computed and costs something.
  const options = { stream: true, stream_options: { include_usage: true }, max_tokens: 200 };
  const chunks = await collect(await openai.chat.completions.create({ ...greedy, ...options }));
  const last = chunks.pop();
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.total_tokens, whole.usage.total_tokens);
  assert.ok(last.usage.cost > 0, JSON.stringify(last));
  assert.ok(chunks.every((chunk) => !chunk.usage));
});

check("the stream helper accumulates the answer", async () => {
  let said = "";
  const request = { ...greedy, stream_options: { include_usage: true } };
  const stream = openai.chat.completions.stream(request).on("content", (delta) => (said += delta));
  const final = await stream.finalChatCompletion();
  assert.equal(said, text);
  assert.equal(await stream.finalContent(), text);
  assert.equal(final.choices[0].message.content, text);
  assert.equal(final.choices[0].finish_reason, "stop");
  assert.equal((await stream.totalUsage()).completion_tokens, whole.usage.completion_tokens);
});

check("a completion streams", async () => {
  const request = { model, prompt: "The capital of", max_tokens: 8, temperature: 0 };
  const expected = await openai.completions.create(request);
  const chunks = await collect(await openai.completions.create({ ...request, stream: true }));
  const said = chunks.map((chunk) => chunk.choices[0]?.text ?? "").join("");
  assert.equal(said, expected.choices[0].text);
});

check("a stream has a request id", async () => {
  const request = { ...greedy, stream: true };
  const { data, response } = await openai.chat.completions.create(request).withResponse();
  assert.ok(response.headers.get("x-request-id"));
  assert.match(response.headers.get("content-type"), /^text\/event-stream/);
  assert.equal(joined(await collect(data)), text);
});

check("a request that fails before its stream rejects", async () => {
  const request = { ...greedy, model: "no-such-model", stream: true };
  const error = await expect(sdk.NotFoundError, () => openai.chat.completions.create(request));
  assert.equal(error.code, "model_not_found");
});

check("many streams at once do not mix", async () => {
  const questions = [
    ["What is the capital of France?", /Paris/],
    ["What is the capital of Japan?", /Tokyo/],
    ["Who are you?", /Tollgate demo model/],
  ];
  const one = async (number) => {
    const [content, pattern] = questions[number % 3];
    const request = { ...greedy, messages: [{ role: "user", content }], stream: true };
    const said = joined(await collect(await openai.chat.completions.create(request)));
    assert.match(said, pattern);
    return said;
  };
  const answers = await Promise.all(Array.from({ length: 12 }, (_, number) => one(number)));
  assert.equal(new Set(answers).size, 3, "the same question got different greedy answers");
});

await run();
