import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
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
const REST_STEP_MS = 500;
const REST_LIMIT_MS = 30_000;

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

  test("and leaves: its chain ends soon", async () => {
    const reader = await begin("VU", "application/json");
    await untilSourceRests(await chainProcess(exchange, "VU", "query-child"));
    reader.leave();
    await assertNothingLeft(exchange);
  });

  test("for longer than the limit: its chain is ended, and the answer says which limit it was", async () => {
    const reader = await begin("UVA", "application/json");
    await chainProcess(exchange, "UVA", "query-child");
    await untilStalled();
    await assertNothingLeft(exchange);
    const pieces: Uint8Array[] = [];
    for await (const chunk of reader.all()) pieces.push(chunk);
    assertStalled(Buffer.concat(pieces).toString());
  });
});

describe("a reader that takes one byte a second", () => {
  test("makes no process, no bus and no disk grow", async () => {
    const reader = await trickle("VU", "text/csv");
    try {
      const query = await chainProcess(exchange, "VU", "query-child");
      // Before its query has begun a process rests, too.
      await eventually(() => reader.taken() > 0, { timeoutMs: 60_000, describe: "the answer to begin" });
      await untilSourceRests(query);
      const before = {
        bus: await heldAtRest(),
        memory: await residentMiB(exchange),
        written: bytesWritten(query),
        taken: reader.taken(),
      };
      const startedMs = performance.now();
      await eventually(() => reader.taken() >= before.taken + SECONDS, { timeoutMs: 60_000 });
      const taken = reader.taken() - before.taken;
      const seconds = (performance.now() - startedMs) / 1_000;
      assert.ok(taken <= seconds + 2, `it took ${String(taken)} bytes in ${seconds.toFixed(1)} s`);
      assert.equal(bytesWritten(query), before.written, "the query gave rows that nobody had asked for");
      assert.ok((await heldAtRest()) <= before.bus + GROWTH_BYTES, "the bus grew");
      const grown = [...(await residentMiB(exchange))].filter(
        ([process, mebibytes]) => mebibytes > (before.memory.get(process) ?? mebibytes) + GROWTH_MIB,
      );
      assert.deepEqual(grown, []);
    } finally {
      reader.leave();
    }
    await assertNothingLeft(exchange);
  });

  test("counts as stalled, since no chunk leaves in time: its chain is ended while it reads, and the answer says so", async () => {
    const reader = await trickle("UVA", "application/json");
    try {
      await chainProcess(exchange, "UVA", "query-child");
      await untilStalled();
      const atEnd = reader.taken();
      await eventually(() => reader.taken() >= atEnd + 2, { describe: "it to read on" });
      await assertNothingLeft(exchange);
      assertStalled((await reader.rest()).toString());
    } finally {
      reader.leave();
    }
  });
});

/** What the bus holds, by figures that are of now: until they stay the same for as long as they may be old, or the time is over. */
async function heldAtRest(): Promise<number> {
  const { bus } = exchange.backends;
  let held = await bus.heldBytes();
  let sameMs = 0;
  for (let waitedMs = 0; sameMs < bus.figuresAgeMs && waitedMs < REST_LIMIT_MS; waitedMs += REST_STEP_MS) {
    await sleep(REST_STEP_MS);
    const now = await bus.heldBytes();
    sameMs = now === held ? sameMs + REST_STEP_MS : 0;
    held = now;
  }
  return held;
}

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

interface Trickle {
  /** Bytes of the answer, its head among them, that were read from the socket so far. */
  taken(): number;
  /** Reads on at full speed; resolves with the answer's body. */
  rest(): Promise<Buffer>;
  leave(): void;
}

/**
 * Asks by a bare socket, and takes one byte a second out of the kernel's hands. Streams do not: they take 64 KiB at a time,
 * however little is read of them.
 */
async function trickle(party: string, accept: string): Promise<Trickle> {
  const { auth, authorizedProviders } = await approve(exchange, [party]);
  const url = new URL(authorizedProviders[party] ?? "");
  const body = JSON.stringify(LARGE);
  const pieces: Buffer[] = [];
  let taken = 0;
  let isSlow = true;
  const socket = connect({
    host: url.hostname,
    port: Number(url.port),
    onread: {
      buffer: () => Buffer.alloc(isSlow ? 1 : 65_536),
      callback: (length, buffer) => {
        pieces.push(Buffer.from(buffer.subarray(0, length)));
        taken += length;
        return !isSlow;
      },
    },
  });
  const closed = once(socket, "close");
  const everySecond = setInterval(() => socket.resume(), 1_000);
  socket.write(
    [
      `POST ${url.pathname} HTTP/1.0`,
      `host: ${url.host}`,
      `authorization: Bearer ${auth.accessToken}`,
      `accept: ${accept}`,
      "content-type: application/json",
      `content-length: ${String(Buffer.byteLength(body))}`,
      "",
      body,
    ].join("\r\n"),
  );
  return {
    taken: () => taken,
    rest: async () => {
      clearInterval(everySecond);
      isSlow = false;
      socket.resume();
      await closed;
      const whole = Buffer.concat(pieces);
      return whole.subarray(whole.indexOf("\r\n\r\n") + 4);
    },
    leave: () => {
      clearInterval(everySecond);
      socket.destroy();
    },
  };
}

/** Resolves when a process writes nothing any more: at one look alone it may only have got no time to run. */
async function untilSourceRests(pid: number): Promise<void> {
  let written = 0;
  let sameLooks = 0;
  await eventually(
    () => {
      const now = bytesWritten(pid);
      sameLooks = now > 0 && now === written ? sameLooks + 1 : 0;
      written = now;
      return sameLooks >= 3;
    },
    { timeoutMs: 60_000, intervalMs: 500, describe: "the query to rest" },
  );
}

/** Resolves when UVA's query has been ended, the limit for stalled readers being over. */
async function untilStalled(): Promise<void> {
  await eventually(async () => (await chainProcesses(exchange, "UVA", "query-child")).length === 0, {
    timeoutMs: 60_000,
    describe: "the query to be ended",
  });
}

/** What a process has written so far, to pipes, too. */
function bytesWritten(pid: number): number {
  return Number(/^wchar: (\d+)$/m.exec(readFileSync(`/proc/${String(pid)}/io`, "utf8"))?.[1]);
}

/** UVA's answer as far as it came, and why it ended. */
function assertStalled(text: string): void {
  const answer = JSON.parse(text) as {
    rows: unknown[];
    status: string;
    problem: { code: string; detail: string; party: string };
  };
  assert.ok(answer.rows.length > 0 && answer.rows.length < ROWS);
  assert.equal(answer.status, "failed");
  assert.equal(answer.problem.code, "time_limit_exceeded");
  assert.match(answer.problem.detail, /1500 ms \(DYNAMOS_STALL_TIMEOUT_MS\)/);
  assert.equal(answer.problem.party, "UVA");
}
