/**
 * Many requests at once: `npm run bench -- load [requests] [users]` (default 200 of 5 users). Each has its own right answer; those
 * beyond the admission limits get 429 and come again after `Retry-After`. Shows how evenly the users were served, and how long
 * light requests of one user take while another's heavy ones run. Fails when an answer is wrong, or anything but 429 refuses.
 */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { call, type Answer, type Approval } from "../cli/client.ts";
import type { User } from "../lib/model/names.ts";
import { writeConfiguration } from "../test/support/exchange.ts";
import { slowQuery } from "../test/support/running-chains.ts";
import { addUsers, CODES, codesFile, startBenchExchange, type BenchExchange } from "./bench-exchange.ts";

const BASES = { VU: 1000, UVA: 2000 } as const;
/** Per steward: far fewer than come at once, so that admission has something to do. */
const MAX_QUEUED = 40;
const HEAVY_STEPS = 30_000_000;
const GIVE_UP_MS = 900_000;

/** What became of one request. */
interface Served {
  readonly user: string;
  readonly ms: number;
  readonly refusals: number;
}

/** Runs it; see the file comment. */
export async function measureLoad(requests = 200, users = 5): Promise<void> {
  const people = Array.from({ length: users }, (_, n): User => {
    return { id: `user-${String(n)}`, userName: `user${String(n)}@example.org` };
  });
  const providers = Object.fromEntries(
    Object.entries(BASES).map(([name, base]) => [name, { Codes: codesFile(requests, base) }]),
  );
  const configuration = await writeConfiguration({ dataSet: CODES, providers });
  await addUsers(configuration, people);
  const bench = await startBenchExchange(configuration, {
    environment: { DYNAMOS_MAX_QUEUED_RUNS: String(MAX_QUEUED) },
  });
  try {
    const approvals = await Promise.all(people.map((user) => approve(bench, user)));
    await showLoad(requests, approvals);
    await showLightBesideHeavy(approvals);
  } finally {
    await bench.close();
  }
}

async function showLoad(requests: number, approvals: readonly Approved[]): Promise<void> {
  const startedAt = performance.now();
  const served = await Promise.all(
    Array.from({ length: requests }, (_, index) =>
      ask(approvals[index % approvals.length] as Approved, index + 1, startedAt),
    ),
  );
  const seconds = (performance.now() - startedAt) / 1000;
  const refusals = served.reduce((sum, one) => sum + one.refusals, 0);
  console.log(
    `${String(requests)} requests at once: all right, in ${seconds.toFixed(1)} s; 429 was said ${String(refusals)} times`,
  );
  console.table(
    approvals.map(({ user }) => {
      const own = served.filter((one) => one.user === user.userName).map(({ ms }) => ms / 1000);
      return { user: user.userName, requests: own.length, "median s": median(own), "longest s": rounded(max(own)) };
    }),
  );
}

async function showLightBesideHeavy(approvals: readonly Approved[]): Promise<void> {
  const [heavy, light] = approvals as readonly [Approved, Approved];
  const alone = await timed(() => ask(light, 1, performance.now()));
  const ending = new AbortController();
  const running = Array.from({ length: 8 }, () =>
    post(heavy, "VU", { type: "sqlDataRequest", query: slowQuery(HEAVY_STEPS) }, ending.signal).catch(() => undefined),
  );
  await sleep(2000);
  const beside = await timed(() => ask(light, 1, performance.now()));
  ending.abort();
  await Promise.all(running);
  console.log(
    `a light request: ${rounded(alone / 1000)} s alone, ${rounded(beside / 1000)} s beside eight heavy ones of another user ` +
      `(${(beside / alone).toFixed(1)} times)`,
  );
}

interface Approved {
  readonly user: User;
  readonly approval: Approval;
}

async function approve({ client }: BenchExchange, user: User): Promise<Approved> {
  const approval = await client.requestApproval({
    type: "sqlDataRequest",
    user,
    dataProviders: Object.keys(BASES),
  });
  return { user, approval };
}

/** Asks one of the stewards until it answers, and checks the answer. */
async function ask(approved: Approved, code: number, startedAt: number): Promise<Served> {
  const party = code % 2 === 0 ? "VU" : "UVA";
  const question = {
    type: "sqlDataRequest",
    query: `SELECT code, amount FROM Codes WHERE code = ${String(code)}`,
    algorithm: "sum",
    algorithmColumns: { code: "amount" },
  };
  for (let refusals = 0; performance.now() - startedAt < GIVE_UP_MS; refusals += 1) {
    const response = await post(approved, party, question);
    if (response.status === 429) {
      await response.body?.cancel();
      const seconds = Number(response.headers.get("retry-after"));
      assert.ok(seconds > 0, "429 says when to come back");
      await sleep(seconds * 1000 * (0.5 + Math.random()));
      continue;
    }
    const answer = (await response.json()) as Answer;
    assert.deepEqual(answer.rows, [{ code, sum_amount: BASES[party] + code }], JSON.stringify(answer));
    return { user: approved.user.userName, ms: performance.now() - startedAt, refusals };
  }
  throw new Error(`A request was refused for ${String(GIVE_UP_MS)} ms.`);
}

function post({ approval }: Approved, party: string, question: unknown, signal?: AbortSignal): Promise<Response> {
  return call("POST", approval.authorizedProviders[party] ?? "", question, {
    token: approval.auth.accessToken,
    ...(signal === undefined ? {} : { signal }),
  });
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

function median(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b);
  return rounded(sorted[Math.floor(sorted.length / 2)] ?? 0);
}

function max(values: readonly number[]): number {
  return values.reduce((most, value) => Math.max(most, value), 0);
}

function rounded(value: number): string {
  return value.toFixed(2);
}
