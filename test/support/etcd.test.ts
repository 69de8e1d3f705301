import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { noEtcdProgram, startEtcd } from "./etcd.ts";
import { processesWith, assertNoProcessLeft } from "./leaks.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const skip = noEtcdProgram();

test("an etcd of a test's own keeps its data over kill and restart, and leaves nothing", { skip }, async () => {
  const server = await startEtcd();
  const admin = await server.admin();
  try {
    await admin.put("a").value("1");
    await server.kill();
    await server.start();
    assert.equal(await admin.get("a").string(), "1");
  } finally {
    admin.close();
    await server.stop();
  }
  await assertNoProcessLeft(`--listen-client-urls=http://${server.endpoint}`);
});

test("an etcd dies with a test process that is killed hard, also while it is paused", { skip }, async () => {
  const program = join(await temporaryFolder(), "start.mjs");
  const support = new URL("etcd.js", import.meta.url).href;
  await writeFile(
    program,
    `import { startEtcd } from ${JSON.stringify(support)};
     const server = await startEtcd();
     await server.pause();
     process.send({ endpoint: server.endpoint, dataFolder: server.dataFolder });`,
  );
  const child = fork(program, { execArgv: [] });
  const [{ endpoint, dataFolder }] = (await once(child, "message")) as [{ endpoint: string; dataFolder: string }];
  const marker = `--listen-client-urls=http://${endpoint}`;
  assert.equal((await processesWith(marker)).length, 2, "the server and its guard");
  child.kill("SIGKILL");
  await assertNoProcessLeft(marker);
  assert.equal(existsSync(dataFolder), false, "its data are gone too");
});
