/** The documents' commands for servers and deployments of the reader's, run as they stand but for names and places. */
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { openMessageBus } from "../../lib/bus/open.ts";
import { openKnowledgeStore } from "../../lib/knowledge/open.ts";
import { packageRoot } from "../../lib/package-root.ts";
import { newQueue, message, take } from "../support/bus.ts";
import { noEtcdProgram, startEtcd } from "../support/etcd.ts";
import { readPackageFile, sectionsOf } from "../support/markdown.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

/** The one block of a document in which this stands. */
async function blockWith(part: string, path: string): Promise<string> {
  const blocks = sectionsOf(await readPackageFile(path)).flatMap(({ code }) => code.map(({ text }) => text));
  const found = blocks.filter((text) => text.includes(part));
  assert.equal(found.length, 1, `${path} has one block with ${part}`);
  return found[0] ?? "";
}

async function run(script: string, cwd: string, environment: Readonly<Record<string, string>>): Promise<string> {
  const env = { ...process.env, ...environment };
  return (await promisify(execFile)("sh", ["-eu", "-c", script], { cwd, env, timeout: 60_000 })).stdout;
}

function noEtcdctl(): string | false {
  return spawnSync("etcdctl", ["version"]).status === 0
    ? false
    : "etcdctl is not installed: apt-get install etcd-client";
}

test(
  "the role of one exchange at etcd lets its user in, below its prefix and nowhere else",
  {
    skip: noEtcdProgram() || noEtcdctl(),
  },
  async (t) => {
    const etcd = await startEtcd();
    t.after(() => etcd.stop());
    const folder = await temporaryFolder();
    await writeFile(join(folder, "PASSWORD_FILE"), "made-up");
    const environment = { ETCDCTL_API: "3", ETCDCTL_ENDPOINTS: etcd.endpoint };
    const script = await blockWith("etcdctl role add exchange", "docs/configuration.md");
    await run(script.replaceAll("/KEY/PREFIX", "/our/own"), folder, environment);
    await etcd.enableAuth("made-up-too");
    const user = { name: "exchange", password: "made-up" };
    const [own, other] = await Promise.all([
      openKnowledgeStore(etcd.url("/our/own", user)),
      openKnowledgeStore(etcd.url("/others", user)),
    ]);
    try {
      await own.put("/a", 1);
      assert.equal((await own.get("/a"))?.value, 1);
      await assert.rejects(other.get("/a"), { code: "access_refused" });
    } finally {
      await Promise.all([own.close(), other.close()]);
    }
  },
);

test("dead letters are listed, shown and replayed", async () => {
  const folder = await temporaryFolder();
  const url = `embedded:${join(folder, "bus.db")}`;
  const bus = await openMessageBus(url);
  try {
    const queue = await newQueue(bus);
    await bus.publish(queue, message("refused"));
    await take(bus, queue, 1, 16, "reject");
    const [letter] = await bus.deadLetters(1);
    assert.ok(letter);
    const script = (await blockWith("dead-letters replay", "docs/operations.md"))
      .replaceAll("npx dynamos", `node '${join(packageRoot, "dist/cli/main.js")}'`)
      .replaceAll(" ID ", ` '${letter.id}' `);
    assert.ok((await run(script, folder, { DYNAMOS_BUS: url })).includes(queue));
    assert.equal((await bus.queueStatus(queue))?.ready, 1);
  } finally {
    await bus.close();
  }
});
