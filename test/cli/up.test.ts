/** `dynamos up` with a folder of one's own. */
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { ExchangeClient } from "../../cli/client.ts";
import { dynamos } from "../support/command.ts";
import { ANALYST, writeConfiguration } from "../support/exchange.ts";
import { eventually } from "../support/eventually.ts";
import { assertNoProcessLeft, processesWith } from "../support/leaks.ts";
import { readPackageFile } from "../support/markdown.ts";
import { startUp } from "../support/running-command.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const QUESTION = {
  type: "sqlDataRequest",
  user: ANALYST,
  dataProviders: ["NORTH", "SOUTH"],
  data_request: {
    type: "sqlDataRequest",
    query: "SELECT team, points FROM Results",
    algorithm: "sum",
    algorithmColumns: { team: "points" },
  },
};
const TOTAL = [
  { team: "A", sum_points: 5 },
  { team: "B", sum_points: 1 },
];

/** The configuration of an exchange that has nothing of the sample's data. */
async function configurationOfMyOwn(): Promise<string> {
  const columns = [
    { name: "team", type: { type: "text" as const } },
    { name: "points", type: { type: "integer" as const } },
  ];
  return writeConfiguration({
    dataSet: { name: "league", type: "csv", tables: [{ name: "Results", columns }], sensitive_columns: {} },
    providers: { NORTH: { Results: "team;points\nA;3\nB;1\n" }, SOUTH: { Results: "team;points\nA;2\n" } },
  });
}

test("an exchange runs from any folder of documents and data files, and ends without a trace", async () => {
  const [configuration, folder] = [await configurationOfMyOwn(), await temporaryFolder()];
  const running = await startUp(folder, "--configuration", configuration);
  try {
    const answer = await new ExchangeClient(running.url).ask(QUESTION);
    assert.deepEqual(answer.pooled?.rows, TOTAL);
  } finally {
    const { code, stderr } = await running.interrupt();
    assert.equal(code, 0, stderr);
  }
  await assertNoProcessLeft(folder);
});

test("chains wait for requests, and serve many, where README's settings for single parts say so", async () => {
  const line = /^npm start -- (--set .*)$/m.exec(await readPackageFile("README.md"))?.[1] ?? "";
  assert.match(line, /agent-VU:\S+ .*agent-UVA:/);
  const own = line.replace("agent-VU:", "agent-NORTH:").replace("agent-UVA:", "agent-SOUTH:").split(" ");
  const [configuration, folder] = [await configurationOfMyOwn(), await temporaryFolder()];
  const running = await startUp(folder, "--configuration", configuration, ...own);
  const logOf = (part: string): Promise<string> => readFile(join(folder, ".dynamos/up/logs", `${part}.log`), "utf8");
  try {
    const client = new ExchangeClient(running.url);
    await eventually(
      async () => {
        assert.deepEqual((await client.ask(QUESTION)).pooled?.rows, TOTAL);
        return /"lifetime":"warm"/.test(await logOf("agent-NORTH"));
      },
      { timeoutMs: 60_000 },
    );
    const south = await logOf("agent-SOUTH");
    assert.match(south, /"lifetime":"persistent"/);
    assert.doesNotMatch(south, /"lifetime":"(warm|cold)"/);
  } finally {
    const { code, stderr } = await running.interrupt();
    assert.equal(code, 0, stderr);
  }
  await assertNoProcessLeft(folder);
});

test("a process that is killed is started anew, and the exchange goes on", async () => {
  const [configuration, folder] = [await configurationOfMyOwn(), await temporaryFolder()];
  const running = await startUp(folder, "--configuration", configuration, "--replicas", "2");
  try {
    const ofNorth = await processesWith(join(folder, ".dynamos", "up", "agent-NORTH"));
    assert.equal(ofNorth.length, 2);
    for (const { pid } of ofNorth) process.kill(pid, "SIGKILL");
    await eventually(() => (running.printed().match(/agent-NORTH(-2)? is ready/g) ?? []).length === 4, {
      timeoutMs: 60_000,
      describe: `both to be ready again: ${running.printed()}`,
    });
    assert.match(running.printed(), /agent-NORTH-2 has ended with SIGKILL; starting it anew/);
    const answer = await new ExchangeClient(running.url).ask(QUESTION);
    assert.deepEqual(answer.pooled?.rows, TOTAL);
  } finally {
    const { code, stderr } = await running.interrupt();
    assert.equal(code, 0, stderr);
  }
  await assertNoProcessLeft(folder);
});

test("a store or a bus that does not answer is named without its password, and nothing is started", async () => {
  for (const [flag, url] of [
    ["--store", "etcd://somebody:secret-word@127.0.0.1:1/prefix"],
    ["--bus", "amqp://somebody:secret-word@127.0.0.1:1/vhost"],
  ] as const) {
    const state = await temporaryFolder();
    const { code, stdout, stderr } = await dynamos("up", flag, url, "--state", state, "--port", "0");
    assert.equal(code, 1, stderr);
    assert.match(
      stderr,
      /^The (knowledge store|message bus) at \w+:\/\/127\.0\.0\.1:1\/\w+ does not answer: .*Start it or mend --/,
    );
    assert.ok(!`${stdout}${stderr}`.includes("secret-word"), stderr);
    assert.ok(!stdout.includes("is ready"));
    await assertNoProcessLeft(state);
  }
});

test("a fault in a document is named with file and place, and nothing is left running", async () => {
  const [configuration, state] = [await configurationOfMyOwn(), await temporaryFolder()];
  const file = join(configuration, "agreements", "NORTH.json");
  const agreement = JSON.parse(await readFile(file, "utf8")) as { relations: Record<string, { dataSets: string[] }> };
  for (const relation of Object.values(agreement.relations)) relation.dataSets = ["legaue"];
  await writeFile(file, JSON.stringify(agreement));
  const { code, stderr } = await dynamos("up", "--configuration", configuration, "--port", "0", "--state", state);
  assert.equal(code, 1);
  const place = "/relations/analyst@example.org/dataSets/0";
  assert.ok(stderr.startsWith(`${file} at ${place}: The agreement of NORTH: there is no data set "legaue".`), stderr);
  await assertNoProcessLeft(state);
});

test("a fault in a party's file is named with file, line and column", async () => {
  const configuration = await configurationOfMyOwn();
  const file = join(configuration, "parties", "NORTH.json");
  await writeFile(file, '{\n  "dataSets": {,}\n}\n');
  const { code, stderr } = await dynamos("up", "--configuration", configuration, "--port", "0");
  assert.equal(code, 1);
  assert.ok(stderr.startsWith(`${file}:2:16: `), stderr);
});
