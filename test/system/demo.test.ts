/** The demo as a user starts it: it ends well, with the known answers, in bounded memory, and leaves nothing running. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { packageRoot } from "../../lib/package-root.ts";
import { chosenBackends, describeBackends, openTestBackends, type TestBackends } from "../support/backends.ts";
import { assertNoProcessLeft } from "../support/leaks.ts";
import { familyMemory } from "../support/process-memory.ts";
import { averageSalaries } from "../support/sample-salaries.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const MEMORY_LIMIT_BYTES = 1.5e9;
/** Often enough to see each chain: they live for a second. */
const SAMPLE_EVERY_MS = 250;

interface Outcome {
  readonly code: number | null;
  readonly output: string;
  readonly peakBytes: number;
  /** Where it ran. */
  readonly folder: string;
}

const choice = chosenBackends();
const isEmbedded = choice.store === "sqlite" && choice.bus === "embedded";

/** Plays it in a folder of its own. */
async function playDemo(...flags: readonly string[]): Promise<Outcome> {
  const folder = await temporaryFolder();
  const child = spawn(process.execPath, [join(packageRoot, "dist", "cli", "main.js"), "demo", ...flags], {
    cwd: folder,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => (output += text));
  }
  const exited = new Promise<number | null>((resolve) => child.once("exit", resolve));
  const isOver = new AbortController();
  void exited.then(() => isOver.abort());
  let peakBytes = 0;
  while (!isOver.signal.aborted && process.platform === "linux") {
    peakBytes = Math.max(peakBytes, familyMemory(child.pid ?? 0));
    await sleep(SAMPLE_EVERY_MS, undefined, { signal: isOver.signal }).catch(() => undefined);
  }
  return { code: await exited, output, peakBytes, folder };
}

/** What it said and found, from its first question on: without what is another each time. */
function storyOf({ output, folder }: Outcome): string {
  return output
    .slice(output.indexOf("\n1. "))
    .replaceAll(folder, "FOLDER")
    .replace(/\b[0-9a-f]{32}\b/g, "PSEUDONYM")
    .replace(/[\d.]+ s\.$/m, "SECONDS");
}

describe(`the demo on ${describeBackends(choice)}`, () => {
  let outcome: Outcome;
  let backends: TestBackends;

  before(async () => {
    backends = await openTestBackends(await temporaryFolder());
    const { storeUrl, busUrl } = backends;
    const flags = isEmbedded ? [] : ["--store", storeUrl, "--bus", busUrl];
    outcome = await playDemo(...flags, "--sidecar", choice.sidecar);
  });
  after(() => backends.close());

  test("exits with 0", () => {
    assert.equal(outcome.code, 0, outcome.output);
  });

  test("prints the averages that the files give, for each steward, for both, and by both archetypes", async () => {
    for (const stewards of [["VU"], ["UVA"], ["VU", "UVA"]]) {
      const averages = await averageSalaries(stewards);
      assert.deepEqual([...averages.keys()].sort(), ["M", "V"]);
      for (const [sex, average] of averages) {
        assert.match(outcome.output, new RegExp(`^ *${sex} +${average}$`, "m"), stewards.join(", "));
        if (stewards.length > 1) {
          assert.match(outcome.output, new RegExp(`^ *${sex} +${average} +${average} +${average}$`, "m"));
        }
      }
    }
    assert.doesNotMatch(outcome.output, /WRONG/);
    assert.match(outcome.output, /RUG \[no_agreement\]/);
    assert.match(outcome.output, /before: computeToData; after: dataThroughTtp/);
    assert.match(outcome.output, /All answers are the known ones/);
  });

  test("leaves the pictures where it says", async () => {
    const path = /^ *(\/.*average-salary\.png)$/m.exec(outcome.output)?.[1] ?? "";
    assert.ok(path.startsWith(outcome.folder), path);
    assert.equal((await readFile(path)).subarray(1, 4).toString(), "PNG");
    assert.match(await readFile(path.replace(/png$/, "svg"), "utf8"), /^<svg/);
  });

  if (!isEmbedded) {
    test("tells the same story, with the same answers, as on embedded store and bus", async () => {
      const embedded = await playDemo();
      assert.equal(embedded.code, 0, embedded.output);
      assert.ok(storyOf(outcome).includes("SECONDS"), storyOf(outcome));
      assert.equal(storyOf(outcome), storyOf(embedded));
      const chart = (of: Outcome): Promise<string> =>
        readFile(join(of.folder, ".dynamos", "demo-output", "average-salary.svg"), "utf8");
      assert.equal(await chart(outcome), await chart(embedded));
    });
  }

  if (choice.store === "etcd") {
    test("leaves no key in etcd", async () => {
      assert.deepEqual(await backends.storedKeys(), []);
    });
  }

  test(
    "takes less than 1.5 GB with all its processes",
    { skip: process.platform !== "linux" && "/proc is Linux's" },
    (t) => {
      t.diagnostic(`${(outcome.peakBytes / 1e6).toFixed(0)} MB at most`);
      assert.ok(outcome.peakBytes > 100e6, "the processes were not found");
      assert.ok(outcome.peakBytes < MEMORY_LIMIT_BYTES, `${String(outcome.peakBytes)} bytes`);
    },
  );

  test("leaves no process running", async () => {
    await assertNoProcessLeft(outcome.folder);
  });
});
