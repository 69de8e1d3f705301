import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, test } from "node:test";
import { call } from "../../cli/client.ts";
import { eventually } from "../support/eventually.ts";
import { smallSample, testExchange } from "../support/exchange.ts";
import { approve, assertNothingLeft, chainProcess, chainProcesses, residentMiB } from "../support/running-chains.ts";

const ROWS = 80_000;
/** 80 MB as CSV, and more than 40 compressed: far more than all sockets, windows and credits on the way can hold. */
const LARGE = {
  type: "sqlDataRequest",
  query: `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ${String(ROWS)}) SELECT i, hex(randomblob(495)) AS t FROM n`,
};

const SECONDS = 5;
/** What a process may gain by living on: metrics, its collector's whims. */
const GROWTH_MIB = 16;
const GROWTH_BYTES = 1e6;

const exchange = await testExchange({
  configuration: await smallSample(20),
  offline: ["RUG", "SURF"],
  environmentOf: { "agent-UVA": { DYNAMOS_STALL_TIMEOUT_MS: "1500" } },
});

describe("a reader that stalls", () => {
  test("stops the query at its source, makes nothing grow, and gets everything when it reads on", async () => {
    const reader = await begin("VU", "text/csv");
    const query = await chainProcess(exchange, "VU", "query-child");
    await untilSourceRests(query);
    const written = bytesWritten(query);
    assert.ok(written < 30e6, `the query had given ${String(written)} bytes when it came to rest`);
    const held = await exchange.backends.bus.heldBytes();
    assert.ok(held < 30e6, `the bus holds ${String(held)} bytes`);
    for (const [process, mebibytes] of await residentMiB(exchange)) {
      assert.ok(mebibytes < 300, `${process} has ${String(mebibytes)} MiB`);
    }
    let lines = 0;
    let bytes = 0;
    for await (const chunk of reader.all()) {
      bytes += chunk.length;
      for (const byte of chunk) if (byte === 0x0a) lines += 1;
    }
    assert.equal(lines, ROWS + 1);
    assert.ok(bytes > ROWS * 990);
    await assertNothingLeft(exchange);
  });

  test("to one byte a second, makes no process, no bus and no disk grow", async () => {
    const reader = await begin("VU", "text/csv");
    try {
      const query = await chainProcess(exchange, "VU", "query-child");
      await untilSourceRests(query);
      const before = {
        written: bytesWritten(query),
        bus: await exchange.backends.bus.heldBytes(),
        memory: await residentMiB(exchange),
      };
      const bytes = reader.all()[Symbol.asyncIterator]();
      let read = (await bytes.next()).value as Uint8Array;
      for (let second = 0; second < SECONDS; second += 1) {
        read = read.subarray(1);
        await sleep(1_000);
      }
      assert.ok(read.length > 0, "what the client had at hand already was not all read");
      assert.equal(bytesWritten(query), before.written, "the query gave rows that nobody had asked for");
      assert.ok((await exchange.backends.bus.heldBytes()) <= before.bus + GROWTH_BYTES, "the bus grew");
      const grown = [...(await residentMiB(exchange))].filter(
        ([process, mebibytes]) => mebibytes > (before.memory.get(process) ?? mebibytes) + GROWTH_MIB,
      );
      assert.deepEqual(grown, []);
    } finally {
      reader.leave();
    }
    await assertNothingLeft(exchange);
  });

  test("and leaves: its chain ends soon", async () => {
    const reader = await begin("VU", "application/json");
    await untilSourceRests(await chainProcess(exchange, "VU", "query-child"));
    reader.leave();
    await assertNothingLeft(exchange);
  });

  test("for longer than the limit: its chain is ended, and the answer says which limit it was", async () => {
    const reader = await begin("UVA", "application/json");
    await chainProcess(exchange, "UVA", "query-child");
    await eventually(async () => (await chainProcesses(exchange, "UVA", "query-child")).length === 0);
    await assertNothingLeft(exchange);
    const pieces: Uint8Array[] = [];
    for await (const chunk of reader.all()) pieces.push(chunk);
    const answer = JSON.parse(Buffer.concat(pieces).toString()) as {
      rows: unknown[];
      status: string;
      problem: { code: string; detail: string; party: string };
    };
    assert.ok(answer.rows.length > 0 && answer.rows.length < ROWS);
    assert.equal(answer.status, "failed");
    assert.equal(answer.problem.code, "time_limit_exceeded");
    assert.match(answer.problem.detail, /1500 ms \(DYNAMOS_STALL_TIMEOUT_MS\)/);
    assert.equal(answer.problem.party, "UVA");
  });
});

interface BegunAnswer {
  /** All of it, what was read already first. */
  all(): AsyncIterable<Uint8Array>;
  leave(): void;
}

/** Asks, and reads the first piece of the answer, no more. */
async function begin(party: string, accept: string): Promise<BegunAnswer> {
  const { auth, authorizedProviders } = await approve(exchange, [party]);
  const leaving = new AbortController();
  const response = await call("POST", authorizedProviders[party] ?? "", LARGE, {
    token: auth.accessToken,
    headers: { accept },
    signal: leaving.signal,
  });
  assert.equal(response.status, 200);
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const { value: first = new Uint8Array() } = await reader.read();
  return {
    async *all() {
      yield first;
      for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
    },
    leave: () => leaving.abort(),
  };
}

/** Resolves when a process writes nothing any more. */
async function untilSourceRests(pid: number): Promise<void> {
  await eventually(
    async () => {
      const before = bytesWritten(pid);
      await sleep(500);
      return before > 0 && bytesWritten(pid) === before;
    },
    { timeoutMs: 30_000, describe: "the query to rest" },
  );
}

/** What a process has written so far, to pipes, too. */
function bytesWritten(pid: number): number {
  return Number(/^wchar: (\d+)$/m.exec(readFileSync(`/proc/${String(pid)}/io`, "utf8"))?.[1]);
}
