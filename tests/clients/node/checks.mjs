// A small runner: every check has a name, runs alone, and says on one line how it went.
//
// A script registers its checks with `check(name, body)` and ends with `await run()`. The first line
// of a failure is `FAILED name`, followed by the stack; the exit status is the number of failures.
// Which SDK is under test is decided by whoever starts the script: TOLLGATE_SDK is its entry file.

import { pathToFileURL } from "node:url";

export const sdk = await import(pathToFileURL(process.env.TOLLGATE_SDK));
export const OpenAI = sdk.default;
export const model = process.env.TOLLGATE_MODEL;
export const who = [{ role: "user", content: "Who are you?" }];
export const long = [{ role: "user", content: "Tell me a long story about a dragon." }];

const checks = [];

export function check(name, body) {
  checks.push({ name, body });
}

export async function run() {
  let failures = 0;
  for (const { name, body } of checks) {
    try {
      await body();
      console.log(`ok     ${name}`);
    } catch (error) {
      failures += 1;
      console.log(`FAILED ${name}\n${error.stack ?? error}`);
    }
  }
  process.exit(Math.min(failures, 100));
}

// A client with the given key, which never retries unless it is told to.
export function client(options = {}) {
  return new OpenAI({ maxRetries: 0, timeout: 60_000, ...options });
}

// The error the call must reject with, of exactly this class.
export async function expect(kind, call) {
  let answer;
  try {
    answer = await call();
  } catch (error) {
    if (error.constructor === kind) return error;
    throw new Error(`rejected with ${error.constructor.name}, not ${kind.name}`, { cause: error });
  }
  throw new Error(`answered ${JSON.stringify(answer)}, did not reject with ${kind.name}`);
}

export async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

export function joined(chunks) {
  return chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
}
