// What a key may not do: too many requests, more than its budget, anything once it is revoked.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { setTimeout as pause } from "node:timers/promises";
import { check, client, expect, model, run, sdk, who } from "./checks.mjs";

const { env } = process;

function chat(caller) {
  return caller.chat.completions.create({ model, messages: who, temperature: 0 });
}

check("one request per minute is one request", async () => {
  const limited = client({ apiKey: env.TOLLGATE_LIMITED_KEY });
  assert.ok((await chat(limited)).choices.length);
  const error = await expect(sdk.RateLimitError, () => chat(limited));
  assert.equal(error.status, 429);
  assert.equal(error.code, "rate_limit_exceeded");
  const wait = Number(error.headers.get("retry-after"));
  assert.ok(wait > 0 && wait <= 60, `retry-after is ${wait}`);
  assert.notEqual(error.headers.get("x-should-retry"), "false");
  assert.ok(error.requestID);
});

check("a spent budget is an insufficient quota", async () => {
  const poor = client({ apiKey: env.TOLLGATE_POOR_KEY });
  let error;
  // The budget may pay for the first token of an answer or two; never for many.
  for (let tries = 0; tries < 10 && !error; tries += 1) {
    await chat(poor).catch((raised) => (error = raised));
  }
  assert.ok(error instanceof sdk.RateLimitError, `${error}`);
  assert.equal(error.code, "insufficient_quota");
  assert.equal(error.headers.get("x-should-retry"), "false");
});

check("a spent budget is not retried by the client", async () => {
  const seen = [];
  const counting = async (...request) => {
    const response = await fetch(...request);
    seen.push(response.status);
    return response;
  };
  const poor = client({ apiKey: env.TOLLGATE_POOR_KEY, maxRetries: 3, fetch: counting });
  await expect(sdk.RateLimitError, () => chat(poor));
  assert.deepEqual(seen, [429]);
});

check("a revoked key stops working within seconds", async () => {
  const revoked = client({ apiKey: env.TOLLGATE_REVOKED_KEY });
  assert.ok((await chat(revoked)).choices.length);
  const command = ["admin", "--data", env.TOLLGATE_DATA, "keys", "revoke", env.TOLLGATE_REVOKED_KEY_ID];
  execFileSync(env.TOLLGATE_BIN, command, { timeout: 30_000, stdio: "inherit" });

  let error;
  for (const deadline = Date.now() + 5_000; !error && Date.now() < deadline; await pause(50)) {
    await revoked.models.list().catch((raised) => (error = raised));
  }
  assert.ok(error, "the key still works five seconds after it was revoked");
  assert.ok(error instanceof sdk.AuthenticationError, `${error}`);
  await expect(sdk.AuthenticationError, () => chat(revoked));
});

check("other keys do not notice", async () => {
  assert.ok((await chat(client())).choices.length);
});

await run();
