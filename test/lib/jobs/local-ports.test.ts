import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdir } from "node:fs/promises";
import { createServer } from "node:net";
import { test } from "node:test";
import { PortReservations, type PortRange } from "../../../lib/jobs/local-ports.ts";
import { identityOf, type ProcessIdentity } from "../../../lib/jobs/local-processes.ts";
import { temporaryFolder } from "../../support/temporary-folder.ts";

/** Above the ports that systems give to connections, and beside those of exchanges that other tests start. */
const range: PortRange = { first: 61_040, last: 61_139 };

async function self(): Promise<ProcessIdentity> {
  const identity = await identityOf(process.pid);
  assert.ok(identity);
  return identity;
}

test("blocks reserved at once by several agents never overlap, and are free again after their release", async () => {
  const folder = await temporaryFolder();
  const owner = await self();
  const agents = await Promise.all([1, 2, 3].map(() => PortReservations.open(folder, range, owner)));
  const blocks = await Promise.all(agents.flatMap((agent) => [agent.reserve(4), agent.reserve(4)]));
  const ports = blocks.flatMap(({ first }) => [first, first + 1, first + 2, first + 3]);
  assert.equal(new Set(ports).size, 24);
  assert.ok(ports.every((port) => port >= range.first && port <= range.last));
  for (const block of blocks) await block.release();
  for (const agent of agents) await agent.close();
  assert.deepEqual(await readdir(folder), []);
});

test("a block is found in the only place where it fits", async (t) => {
  const small: PortRange = { first: 61_140, last: 61_149 };
  const blocker = createServer().listen(61_144, "127.0.0.1");
  await once(blocker, "listening");
  t.after(() => blocker.close());
  for (let attempt = 0; attempt < 20; attempt++) {
    const ports = await PortReservations.open(await temporaryFolder(), small, await self());
    const block = await ports.reserve(5);
    assert.equal(block.first, 61_145, "61144 is bound, and only behind it are five in a row");
  }
});

test("when no block is left, the error names count and range", async () => {
  const ports = await PortReservations.open(await temporaryFolder(), { first: 61_150, last: 61_153 }, await self());
  await ports.reserve(2);
  await assert.rejects(ports.reserve(4), { code: "job_start_failed", message: /No 4 .* 61150 and 61153/ });
});

test("what a dead agent reserved is taken over, each port by one agent only", async () => {
  const folder = await temporaryFolder();
  const sleeper = spawn("sleep", ["60"]);
  const dead = await identityOf(sleeper.pid ?? 0);
  assert.ok(dead);
  const all: PortRange = { first: 61_160, last: 61_167 };
  await (await PortReservations.open(folder, all, dead)).reserve(8);
  const ports = await PortReservations.open(folder, all, await self());
  await assert.rejects(ports.reserve(1), { code: "job_start_failed" }, "while it lives they are taken");
  sleeper.kill("SIGKILL");
  await once(sleeper, "exit");
  const others = await PortReservations.open(folder, all, await self());
  const outcomes = await Promise.allSettled([ports.reserve(8), others.reserve(8)]);
  assert.deepEqual(outcomes.map((outcome) => outcome.status).sort(), ["fulfilled", "rejected"]);
});
