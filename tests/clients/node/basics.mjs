// Chat, completions, models, and the SDK's own error classes for what a client does wrong.

import assert from "node:assert/strict";
import { check, client, expect, model, run, sdk, who } from "./checks.mjs";

const openai = client();

function chat(changes = {}) {
  return openai.chat.completions.create({ model, messages: who, temperature: 0, ...changes });
}

check("a chat is answered", async () => {
  const answer = await chat();
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.model, model);
  assert.ok(answer.id && answer.created > 0);
  assert.equal(answer.choices.length, 1);
  assert.equal(answer.choices[0].index, 0);
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.match(answer.choices[0].message.content, /Tollgate demo model/);
  assert.equal(answer.choices[0].finish_reason, "stop");
});

check("usage adds up and has a cost", async () => {
  // Another length than elsewhere, so that no cache answers it for nothing.
  const { usage } = await chat({ max_tokens: 200 });
  assert.ok(usage.prompt_tokens > 0 && usage.completion_tokens > 0);
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  assert.ok(usage.cost > 0, JSON.stringify(usage));
});

check("a bounded answer stops for its length", async () => {
  const answer = await chat({ max_completion_tokens: 3 });
  assert.equal(answer.choices[0].finish_reason, "length");
  assert.equal(answer.usage.completion_tokens, 3);
});

check("every answer has a request id", async () => {
  const first = (await chat())._request_id;
  const { response, request_id: second } = await chat().withResponse();
  assert.ok(first && second && first !== second);
  assert.equal(response.headers.get("x-request-id"), second);
});

check("unknown vendor fields are ignored", async () => {
  assert.ok((await chat({ ignore_eos: false, vendor: { x: 1 } })).choices.length);
});

check("a text is completed", async () => {
  const request = { model, prompt: "The capital of", max_tokens: 5, temperature: 0 };
  const answer = await openai.completions.create(request);
  assert.equal(answer.object, "text_completion");
  assert.ok(answer.choices[0].text);
  assert.ok(["stop", "length"].includes(answer.choices[0].finish_reason));
});

check("models are listed and retrieved", async () => {
  const names = [];
  for await (const each of openai.models.list()) names.push(each.id);
  assert.ok(names.includes(model), names.join());
  assert.equal((await openai.models.retrieve(model)).id, model);
});

check("a bad key is an authentication error", async () => {
  const stranger = client({ apiKey: "sk-this-is-no-key" });
  const calls = [
    () => stranger.chat.completions.create({ model, messages: who }),
    () => stranger.models.list(),
  ];
  for (const call of calls) {
    const error = await expect(sdk.AuthenticationError, call);
    assert.equal(error.status, 401);
    assert.equal(error.code, "invalid_api_key");
    assert.ok(!error.message.includes("sk-this-is-no-key"), error.message);
  }
});

check("an unknown model is a not found error", async () => {
  const calls = [
    () => chat({ model: "no-such-model" }),
    () => openai.models.retrieve("no-such-model"),
  ];
  for (const call of calls) {
    const error = await expect(sdk.NotFoundError, call);
    assert.equal(error.code, "model_not_found");
    assert.match(error.message, /no-such-model/);
  }
});

check("a wrong type names the field", async () => {
  const error = await expect(sdk.BadRequestError, () => chat({ temperature: "hot" }));
  assert.equal(error.param, "temperature");
  assert.equal(error.type, "invalid_request_error");
  assert.ok(error.requestID);
});

check("a prompt that does not fit is told so", async () => {
  const messages = [{ role: "user", content: "one two three ".repeat(3000) }];
  const error = await expect(sdk.BadRequestError, () => chat({ messages }));
  assert.equal(error.code, "context_length_exceeded");
  assert.equal(error.param, "messages");
});

await run();
