// Clients that give up: their timeouts, streams they leave, and that the next request still works.

import assert from "node:assert/strict";
import { check, client, collect, expect, long, model, run, sdk, who } from "./checks.mjs";

const openai = client();

async function works() {
  const answer = await openai.chat.completions.create({ model, messages: who, temperature: 0 });
  assert.match(answer.choices[0].message.content, /Tollgate demo model/);
}

function story(changes = {}, options = {}) {
  const request = { model, messages: long, temperature: 0, max_tokens: 600, ...changes };
  return openai.chat.completions.create(request, options);
}

check("a tiny timeout is a timeout error", async () => {
  await expect(sdk.APIConnectionTimeoutError, () => story({}, { timeout: 1 }));
  await works();
});

check("a broken off loop leaves the gateway usable", async () => {
  for (let round = 0; round < 5; round += 1) {
    for await (const chunk of await story({ stream: true })) {
      if (chunk.choices[0]?.delta.content) break;
    }
  }
  await works();
});

check("an aborted stream leaves the gateway usable", async () => {
  for (let round = 0; round < 5; round += 1) {
    const stream = await story({ stream: true });
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta.content) stream.controller.abort();
    }
  }
  await works();
});

check("an aborted request is the user's abort", async () => {
  const abort = new AbortController();
  const pending = expect(sdk.APIUserAbortError, () => story({}, { signal: abort.signal }));
  abort.abort();
  await pending;
  await works();
});

check("the stream helper can be aborted", async () => {
  const stream = openai.chat.completions.stream({ model, messages: long, temperature: 0 });
  stream.on("content", () => stream.abort());
  await expect(sdk.APIUserAbortError, () => stream.finalContent());
  await works();
});

check("streams beside an abandoned one are whole", async () => {
  const left = await story({ stream: true });
  const request = { model, messages: who, temperature: 0, stream: true };
  const [, ...whole] = await Promise.all([
    left[Symbol.asyncIterator]().next().then(() => left.controller.abort()),
    ...Array.from({ length: 4 }, async () => collect(await openai.chat.completions.create(request))),
  ]);
  for (const chunks of whole) assert.equal(chunks.at(-1).choices[0].finish_reason, "stop");
});

await run();
