import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeEach, describe, test } from "node:test";
import { call, type Answer } from "../../cli/client.ts";
import type { Agreement } from "../../lib/model/agreement.ts";
import { eventually } from "../support/eventually.ts";
import { ANALYST, changeDocument, pauseService, rejectsWith, smallSample, testExchange } from "../support/exchange.ts";
import {
  approve,
  assertNothingLeft,
  chainProcess,
  chainProcesses,
  manyRows,
  pauseQueries,
  slowQuery,
  startedChains,
  startedChainsBy,
} from "../support/running-chains.ts";

const STEPS = 2_000_000;
const SLOW = { type: "sqlDataRequest", query: slowQuery(STEPS) };
const LONG = { type: "sqlDataRequest", query: manyRows(50_000_000) };
const ROWS = 400_000;
const LARGE = { type: "sqlDataRequest", query: manyRows(ROWS) };
/** How long leases of the dead stand, and what a busy machine adds; far below a request's deadline of ten minutes. */
const BOUNDED_MS = 60_000;
/** Two seconds from a cancel or a changed agreement to the last row, and much for a busy machine; the queries would never end. */
const ENDED_WITHIN_MS = 20_000;

const [ONE, TWO] = ["agent-VU", "agent-VU-2"] as const;
type Instance = typeof ONE | typeof TWO;

const exchange = await testExchange({
  configuration: await smallSample(20),
  offline: ["RUG"],
  replicas: { agent: { VU: 2 } },
  // Long enough for a busy machine: an instance that is silent for a lease counts as gone, and its runs begin again elsewhere.
  environment: { DYNAMOS_ONLINE_LEASE_MS: "5000", DYNAMOS_KEPT_ANSWER_MS: "4000" },
});
const atHome = await approve(exchange, ["VU"]);
beforeEach(async () => {
  for (const name of [ONE, TWO]) if (await hasEnded(name)) await exchange.start(name);
});

describe("two instances of one party's agent", () => {
  test("asked the same at the same moment: one chain runs, and both callers get its answer", async () => {
    const key = randomUUID();
    const answers = await Promise.all([ask(ONE, SLOW, key), ask(TWO, SLOW, key)]);
    assert.deepEqual(answers[0], answers[1]);
    assert.deepEqual(answers[0]?.rows, [{ steps: STEPS }]);
    assert.equal(startedChains(exchange, "VU", key), 1);
    await claimsToBeGone();
  });

  test("stream a large answer through the one that was asked, at the pace of who reads it there", async () => {
    const key = randomUUID();
    const leaving = new AbortController();
    const left = assert.rejects(begin(ONE, LARGE, key, leaving.signal), { name: "AbortError" });
    await eventually(() => startedChainsBy(exchange, ONE, key) === 1);
    leaving.abort();
    await left;
    const reader = await begin(TWO, LARGE, key);
    let lines = 0;
    for await (const piece of reader) for (const byte of piece) if (byte === 0x0a) lines += 1;
    assert.equal(lines, ROWS + 1);
    assert.equal(startedChains(exchange, "VU", key), 1);
  });

  test("stop the query at its source when the reader at the other one stalls, and end it when he leaves", async () => {
    const key = randomUUID();
    const leaving = new AbortController();
    const left = assert.rejects(begin(ONE, LONG, key, leaving.signal), { name: "AbortError" });
    await eventually(() => startedChainsBy(exchange, ONE, key) === 1);
    leaving.abort();
    await left;
    const reader = await begin(TWO, LONG, key);
    await untilSourceRests(await chainProcess(exchange, "VU", "query-child"));
    for await (const _first of reader) break;
    await assertNothingLeft(exchange);
    assert.equal(startedChains(exchange, "VU", key), 1);
  });

  test("refuse another question under the same key wherever it is asked", async () => {
    const key = randomUUID();
    await ask(ONE, SLOW, key);
    await rejectsWith(ask(TWO, LARGE, key), "idempotency_key_reused");
  });
});

describe("a run at one instance", () => {
  test("that is killed is answered by the other when it is asked again, and nothing of the dead one stays", async () => {
    const key = randomUUID();
    const lost = assert.rejects(ask(ONE, SLOW, key));
    await pauseQueries(exchange, "VU");
    exchange.services.get(ONE)?.kill("SIGKILL");
    await lost;
    assert.deepEqual((await ask(TWO, SLOW, key)).rows, [{ steps: STEPS }]);
    assert.equal(startedChainsBy(exchange, TWO, key), 1);
    await assertNothingLeft(exchange);
    await claimsToBeGone();
    await instanceQueues(1);
  });

  test("that is frozen is answered by the other in bounded time, and its own caller once when it thaws", async () => {
    const key = randomUUID();
    let answered = 0;
    const first = ask(ONE, SLOW, key).finally(() => (answered += 1));
    await chainProcess(exchange, "VU", "query-child");
    const thaw = await pauseService(exchange, ONE);
    try {
      const startedMs = performance.now();
      assert.deepEqual((await ask(TWO, SLOW, key)).rows, [{ steps: STEPS }]);
      assert.ok(performance.now() - startedMs < BOUNDED_MS);
    } finally {
      thaw();
    }
    assert.deepEqual((await first).rows, [{ steps: STEPS }]);
    assert.equal(answered, 1);
    await assertNothingLeft(exchange);
  });

  for (const [owner, other] of [
    [ONE, TWO],
    [TWO, ONE],
  ] as const) {
    test(`(${owner}) ends when it is cancelled at the other`, async () => {
      const key = randomUUID();
      const ended = rejectsWith(ask(owner, { ...SLOW, query: slowQuery(1e12) }, key), "cancelled");
      await chainProcess(exchange, "VU", "query-child");
      const url = new URL(`/agent/v1/requests/${key}`, urlOf(other)).href;
      const startedMs = performance.now();
      const { status } = await call("DELETE", url, undefined, { token: atHome.auth.accessToken });
      assert.equal(status, 204);
      await ended;
      assertSoon(startedMs);
      await assertNothingLeft(exchange);
    });
  }

  test("ends when its agreement is withdrawn, with or without a key, at either", async () => {
    const endless = { ...SLOW, query: slowQuery(1e12) };
    const runs = [ask(ONE, endless), ask(TWO, endless, randomUUID())];
    const ended = Promise.all(runs.map((run) => rejectsWith(run, "agreement_gone")));
    await eventually(async () => (await chainProcesses(exchange, "VU", "query-child")).length === 2, {
      timeoutMs: BOUNDED_MS,
    });
    await withRelation(
      () => undefined,
      async (startedMs) => {
        await ended;
        assertSoon(startedMs);
      },
    );
    await assertNothingLeft(exchange);
  });

  test("ends when its agreement grants less than it was started with, and goes on when it grants more", async () => {
    const endless = { ...SLOW, query: slowQuery(1e12) };
    const ended = rejectsWith(ask(TWO, endless), "agreement_gone");
    await chainProcess(exchange, "VU", "query-child");
    await withRelation(
      (relation) => ({ ...relation, allowedComputeProviders: [] }),
      async () => assert.equal((await chainProcesses(exchange, "VU", "query-child")).length, 1),
    );
    await withRelation(
      (relation) => ({ ...relation, minimumGroupSize: 50 }),
      async (startedMs) => {
        assert.match(String((await ended)["message"]), /Ask again/);
        assertSoon(startedMs);
      },
    );
  });

  test("ends at the instant at which its agreement does", async () => {
    const untilMs = Date.parse(new Date().toISOString()) + 8_000;
    await withRelation(
      (relation) => ({ ...relation, validUntil: new Date(untilMs).toISOString() }),
      async () => {
        const { details } = await rejectsWith(ask(ONE, { ...SLOW, query: slowQuery(1e12) }), "agreement_gone");
        assert.equal((details as Record<string, unknown>)["refusal"], "relation_not_valid_now");
      },
    );
  });
});

test("a stream for a third party goes on at the other instance when the one that makes it is killed", async () => {
  const approval = await approve(exchange, ["VU", "UVA"], { throughThirdParty: true });
  const key = randomUUID();
  const surf = `${exchange.services.get("agent-SURF")?.url ?? ""}/agent/v1/sqlDataRequest/surf`;
  const options = { token: approval.auth.accessToken, idempotencyKey: key };
  const answer = exchange.client.askAgent(surf, SLOW, options);
  // The other provider's stream goes on meanwhile, or has come already.
  await Promise.all([pauseQueries(exchange, "VU"), chainProcess(exchange, "UVA", "query-child")]);
  const maker = startedChainsBy(exchange, ONE, key) > 0 ? ONE : TWO;
  exchange.services.get(maker)?.kill("SIGKILL");
  const { rows = [] } = await answer;
  assert.deepEqual(
    rows.map(({ steps }) => steps),
    [STEPS, STEPS],
  );
  assert.equal(startedChainsBy(exchange, maker === ONE ? TWO : ONE, key), 1);
  await assertNothingLeft(exchange);
});

test("one that is told to stop under load loses nothing: who asks again at the other gets his answer", async () => {
  const questions = Array.from({ length: 16 }, (_, index) => ({
    key: randomUUID(),
    steps: 200_000 + index,
    at: index % 2 === 0 ? ONE : TWO,
  }));
  const answers = questions.map(async ({ key, steps, at }) => {
    const question = { ...SLOW, query: slowQuery(steps) };
    const { rows } = await ask(at, question, key).catch(() => ask(TWO, question, key));
    return rows?.[0]?.["steps"];
  });
  await chainProcess(exchange, "VU", "query-child");
  const stopping = exchange.services.get(ONE);
  stopping?.kill("SIGTERM");
  assert.deepEqual(
    await Promise.all(answers),
    questions.map(({ steps }) => steps),
  );
  assert.deepEqual(await stopping?.exited, { code: 0, signal: null });
  await assertNothingLeft(exchange);
});

test("and in the end no claim is left either", async () => {
  await claimsToBeGone();
});

function urlOf(instance: Instance): string {
  return `${exchange.services.get(instance)?.url ?? ""}/agent/v1/sqlDataRequest/vu`;
}

function ask(instance: Instance, question: typeof SLOW, idempotencyKey?: string): Promise<Answer> {
  const options = { token: atHome.auth.accessToken, ...(idempotencyKey === undefined ? {} : { idempotencyKey }) };
  return exchange.client.askAgent(urlOf(instance), question, options);
}

/** Asks for CSV; resolves with all pieces, once the first is there. */
async function begin(
  instance: Instance,
  question: typeof SLOW,
  idempotencyKey: string,
  signal?: AbortSignal,
): Promise<AsyncGenerator<Uint8Array>> {
  const response = await call("POST", urlOf(instance), question, {
    token: atHome.auth.accessToken,
    idempotencyKey,
    headers: { accept: "text/csv" },
    ...(signal === undefined ? {} : { signal }),
  });
  assert.equal(response.status, 200, response.status === 200 ? "" : await response.text());
  const reader = (response.body as ReadableStream<Uint8Array>).getReader();
  const first = await reader.read();
  const pieces = (async function* () {
    try {
      for (let next = first; !next.done; next = await reader.read()) yield next.value;
    } finally {
      await reader.cancel();
    }
  })();
  return pieces;
}

/** Changes the analyst's relation for the time of some work, which is told when. */
async function withRelation(
  change: (relation: Agreement["relations"][string]) => Agreement["relations"][string] | undefined,
  work: (changedMs: number) => Promise<void>,
): Promise<void> {
  let before: Agreement | undefined;
  await changeDocument<Agreement>(exchange, "policyEnforcer", "VU", (agreement) => {
    before = agreement;
    const { [ANALYST.userName]: relation, ...others } = agreement.relations;
    const changed = relation && change(relation);
    return { ...agreement, relations: { ...others, ...(changed && { [ANALYST.userName]: changed }) } };
  });
  try {
    await work(performance.now());
  } finally {
    const restored = before;
    if (restored !== undefined) await changeDocument<Agreement>(exchange, "policyEnforcer", "VU", () => restored);
    // A job that was stopped lives again as soon as it has been composed anew.
    const quick = { ...SLOW, query: slowQuery(1) };
    await eventually(() => ask(ONE, quick), { timeoutMs: BOUNDED_MS, describe: "the job to be answered again" });
  }
}

/** Resolves when a process writes nothing any more, not even to pipes. */
async function untilSourceRests(pid: number): Promise<void> {
  const written = (): number => Number(/^wchar: (\d+)$/m.exec(readFileSync(`/proc/${String(pid)}/io`, "utf8"))?.[1]);
  await eventually(
    async () => {
      const before = written();
      await sleep(1_000);
      return before > 0 && written() === before;
    },
    { timeoutMs: BOUNDED_MS, describe: "the query to rest" },
  );
}

function assertSoon(startedMs: number): void {
  const tookMs = performance.now() - startedMs;
  assert.ok(tookMs < ENDED_WITHIN_MS, `it ended after ${tookMs.toFixed(0)} ms`);
}

function claimsToBeGone(): Promise<unknown> {
  return eventually(
    async () => {
      const keys = (await exchange.backends.storedKeys()).map(({ key }) => key);
      assert.deepEqual(
        keys.filter((key) => key.startsWith("/agents/requests/")),
        [],
      );
      return true;
    },
    { timeoutMs: BOUNDED_MS, describe: "claims of requests to be gone" },
  );
}

/** Waits until so many instances of VU have queues of their own. */
function instanceQueues(instances: number): Promise<unknown> {
  return eventually(
    async () => {
      const names = (await exchange.backends.bus.queues()).map(({ name }) => /^VU-in-([0-9a-f]{8})/.exec(name)?.[1]);
      return new Set(names.filter((name) => name !== undefined)).size === instances;
    },
    { timeoutMs: BOUNDED_MS, describe: "the queues of the dead instance to be gone" },
  );
}

async function hasEnded(name: Instance): Promise<boolean> {
  const running = Symbol();
  return (await Promise.race([exchange.services.get(name)?.exited, Promise.resolve(running)])) !== running;
}
