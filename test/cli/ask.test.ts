/** `dynamos ask`, against a front door with agents that answer as a test tells them. */
import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { ask, type AskOptions } from "../../cli/commands/ask.ts";
import { dynamos } from "../support/command.ts";
import { agentAnswer, ANALYST, startFrontDoor } from "../support/front-door.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const REQUEST = {
  type: "sqlDataRequest",
  user: ANALYST,
  dataProviders: ["VU", "UVA"],
  data_request: { type: "sqlDataRequest", query: "SELECT Geslacht FROM Personen LIMIT 1" },
};

/** Runs the command; its exit code and what it printed. */
async function run(options: Partial<AskOptions> & { readonly orchestrator: string }): Promise<[number, string]> {
  const lines: string[] = [];
  const code = await ask({ file: undefined, ready: [], waitMs: 0, write: (line) => void lines.push(line), ...options });
  return [code, lines.join("\n")];
}

async function requestFile(request: object = REQUEST): Promise<string> {
  const file = join(await temporaryFolder(), "request.json");
  await writeFile(file, JSON.stringify(request));
  return file;
}

test("the answer of each party is printed, and the exit code is 0 when all have answered", async (t: TestContext) => {
  const door = await startFrontDoor(t);
  for (const name of ["VU", "UVA"]) {
    await door.agent(name, { answer: (_request, response) => void response.end(agentAnswer(name, [{ n: name }])) });
  }
  const [code, output] = await run({ orchestrator: door.url, file: await requestFile() });
  assert.equal(code, 0, output);
  assert.match(output, /archetype: computeToData\n[^]*\nUVA:\nn\nUVA/);
  assert.match(output, /\nVU:\nn\nVU/);
});

test("a party that is offline is named, and the exit code is 1", async (t: TestContext) => {
  const door = await startFrontDoor(t);
  await door.agent("VU");
  const [code, output] = await run({ orchestrator: door.url, file: await requestFile() });
  assert.equal(code, 1, output);
  assert.match(output, /not answered: UVA: offline/);
});

test("with --wait a party that comes late is waited for", async (t: TestContext) => {
  const door = await startFrontDoor(t);
  await door.agent("VU");
  const lines: string[] = [];
  const code = await ask({
    file: await requestFile(),
    orchestrator: door.url,
    ready: [],
    waitMs: 30_000,
    write: (line) => {
      lines.push(line);
      if (/UVA: offline.*asking again/.test(line)) void door.agent("UVA");
    },
  });
  assert.equal(code, 0, lines.join("\n"));
});

test("a request that is wrong is not repeated: the orchestrator's reason is the answer", async (t: TestContext) => {
  const door = await startFrontDoor(t);
  await door.agent("VU");
  const file = await requestFile({ ...REQUEST, dataProviders: "VU" });
  await assert.rejects(run({ orchestrator: door.url, file, waitMs: 30_000 }), /dataProviders/);
});

test("without a file it says who can be asked", async (t: TestContext) => {
  const door = await startFrontDoor(t);
  for (const name of ["VU", "SURF"]) await door.agent(name);
  const [code, output] = await run({ orchestrator: door.url });
  assert.deepEqual([code, output.split("\n").at(-1)], [0, "can be asked: SURF, VU"]);
});

test("what is not ready is named with its address", async (t: TestContext) => {
  const door = await startFrontDoor(t);
  await assert.rejects(
    run({ orchestrator: door.url, ready: ["http://127.0.0.1:9"] }),
    /Nothing answers at http:\/\/127\.0\.0\.1:9\/ready/,
  );
});

test("a file that holds no question, or is not there, is named", async () => {
  const file = await requestFile({ type: "sqlDataRequest" });
  const withoutQuestion = await dynamos("ask", file);
  assert.equal(withoutQuestion.code, 1);
  assert.match(withoutQuestion.stderr, /request\.json: The request has no "data_request"/);
  const missing = await dynamos("ask", `${file}.not`);
  assert.match(missing.stderr, /cannot be read/);
});
