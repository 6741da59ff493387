// Calls of functions, answers of a form, log-probabilities and several choices, as the SDK reads them.

import assert from "node:assert/strict";
import { check, client, model, run, who } from "./checks.mjs";

const openai = client();

const schema = {
  type: "object",
  properties: { city: { type: "string", enum: ["Rome", "Oslo"] }, days: { type: "integer", minimum: 1, maximum: 9 } },
  required: ["city", "days"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", description: "Tells the weather of a city.", parameters: schema } }];
const weather = [{ role: "user", content: "What is the weather in Rome?" }];
const request = { model, messages: weather, temperature: 0, max_tokens: 200 };
const required = { ...request, tools, tool_choice: "required", parallel_tool_calls: false };

function checkArguments(text) {
  const { city, days, ...more } = JSON.parse(text);
  assert.ok(["Rome", "Oslo"].includes(city) && days >= 1 && days <= 9, text);
  assert.deepEqual(more, {});
}

check("a required call is valid", async () => {
  const { choices } = await openai.chat.completions.create(required);
  assert.equal(choices[0].finish_reason, "tool_calls");
  assert.equal(choices[0].message.tool_calls[0].function.name, "weather");
  checkArguments(choices[0].message.tool_calls[0].function.arguments);
});

check("a call streams and is put together by the SDK", async () => {
  const { choices } = await openai.chat.completions.stream(required).finalChatCompletion();
  assert.equal(choices[0].finish_reason, "tool_calls");
  checkArguments(choices[0].message.tool_calls[0].function.arguments);
});

check("an answer keeps to a schema", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "trip", strict: true, schema } };
  const { choices } = await openai.chat.completions.create({ ...request, response_format });
  checkArguments(choices[0].message.content);
});

check("log-probabilities are told for each token", async () => {
  const asked = { ...request, messages: who, logprobs: true, top_logprobs: 2 };
  const { choices } = await openai.chat.completions.create(asked);
  const told = choices[0].logprobs.content;
  const text = Buffer.from(told.flatMap((token) => token.bytes)).toString();
  assert.equal(text, choices[0].message.content);
  assert.ok(told.every((token) => token.logprob <= 0 && token.top_logprobs.length === 2));
});

check("several choices stream side by side", async () => {
  const texts = ["", "", ""];
  const stream = await openai.chat.completions.create({ ...request, messages: who, temperature: 1, seed: 4, n: 3, stream: true });
  for await (const chunk of stream) {
    for (const choice of chunk.choices) texts[choice.index] += choice.delta.content ?? "";
  }
  const { choices } = await openai.chat.completions.create({ ...request, messages: who, temperature: 1, seed: 4, n: 3 });
  assert.deepEqual(texts, choices.map((choice) => choice.message.content));
});

await run();
