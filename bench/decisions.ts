/**
 * How long a policy decision takes, from the inside to the outside: the decision with its reads of the store; the question to the
 * policy enforcer over the bus and its answer, which is what the orchestrator asks for at every approval; and the whole approval at the
 * front door, with the parties composed and the plan kept. Beside an exchange with the agreements of two stewards alone stand one with 1,000
 * agreements, and one in which the two stewards' own agreements have 1,000 users each.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openMessageBus } from "../lib/bus/open.ts";
import { instanceReplyQueue } from "../lib/bus/queues.ts";
import { RpcClient } from "../lib/bus/rpc.ts";
import { systemClock } from "../lib/clock.ts";
import { KnowledgeBase } from "../lib/knowledge/knowledge-base.ts";
import { openKnowledgeStore } from "../lib/knowledge/open.ts";
import type { StewardValidation } from "../lib/messages.ts";
import type { Agreement } from "../lib/model/agreement.ts";
import { evaluateAgreement } from "../lib/policy/evaluate.ts";
import { askPolicyEnforcer } from "../orchestrator/policy-client.ts";
import { ANALYST, writeConfiguration } from "../test/support/exchange.ts";
import { ask } from "./ask.ts";
import { addUsers, CODES, codesFile, startBenchExchange, type BenchExchange } from "./bench-exchange.ts";
import { inTurns, quantile, ratios, secondsOf, summarize } from "./measured.ts";
import { roundsOf, type RunOptions, type Table, type TableBench, type Target } from "./table.ts";

const USUAL_ROUNDS = 200;
const LIMIT_MS = 50;
const STEWARDS = ["VU", "UVA"] as const;
const TYPE = "sqlDataRequest";

/** What the store has, and how many agreements and users more than two make it so. */
const SIZES = [
  { size: "2 agreements", others: 0, users: 0 },
  { size: "1,000 agreements", others: 998, users: 0 },
  { size: "2 agreements of 1,000 users", others: 0, users: 999 },
] as const;
const QUICK_SIZES = SIZES.slice(0, 2);
const QUICK_MOST = 20;
const [{ size: FEW }, { size: MANY }] = SIZES;

const STEPS = ["agreements read and decided", "policy enforcer asked over the bus", "whole approval"] as const;
type Step = (typeof STEPS)[number];
/** The word is "policy decision"; both readings of it are held against the limit. */
const TARGETS: Readonly<Partial<Record<Step, string>>> = {
  "policy enforcer asked over the bus": "policy decision (policy enforcer over the bus)",
  "whole approval": "whole approval, with composition",
};

/** Of one size: each step, done once; it resolves with its milliseconds. */
interface Deciding {
  readonly size: string;
  readonly steps: Readonly<Record<Step, () => Promise<number>>>;
  close(): Promise<void>;
}

/** See the file comment. */
export const DECISIONS: TableBench = {
  name: "decisions",
  about: "a policy decision, and the approval around it, with 2 and with 1,000 agreements: p50 and p95",
  run: async (options) => {
    const rounds = roundsOf(options, USUAL_ROUNDS);
    const opened: Deciding[] = [];
    try {
      for (const { size, others, users } of options.quick ? QUICK_SIZES : SIZES) {
        options.progress(`decisions: starting the exchange with ${size}`);
        opened.push(await open(size, others, users, options));
      }
      const things = Object.fromEntries(
        opened.flatMap(({ size, steps }) => STEPS.map((step) => [keyOf(step, size), steps[step]])),
      );
      // Compiles what a decision needs.
      await inTurns(options.quick ? 1 : 10, things);
      options.progress(`decisions: ${String(rounds)} of each in turns`);
      return [
        table(
          opened.map(({ size }) => size),
          await inTurns(rounds, things),
        ),
      ];
    } finally {
      for (const each of opened) await each.close();
    }
  },
};

async function open(size: string, others: number, users: number, { quick }: RunOptions): Promise<Deciding> {
  const most = quick ? QUICK_MOST : Number.POSITIVE_INFINITY;
  const bench = await startBenchExchange(await configurationOf(Math.min(others, most), Math.min(users, most)));
  const store = await openKnowledgeStore(bench.exchange.storeUrl);
  const bus = await openMessageBus(bench.exchange.busUrl);
  const rpc = new RpcClient(bus, { replyQueue: instanceReplyQueue("bench", randomUUID().slice(0, 8)) });
  const knowledge = new KnowledgeBase(store);
  return {
    size,
    steps: {
      "agreements read and decided": () => decisionMs(knowledge),
      "policy enforcer asked over the bus": () => answerMs(rpc),
      "whole approval": () => approvalMs(bench),
    },
    close: async () => {
      await rpc.close();
      await bus.close();
      await store.close();
      await bench.close();
    },
  };
}

/** What the policy enforcer does between question and answer, here: `orchestrator/policy-enforcer/app.ts`. */
async function decisionMs(knowledge: KnowledgeBase): Promise<number> {
  const nowMs = systemClock.now();
  return timed(() =>
    Promise.all(
      STEWARDS.map(async (steward) => {
        const agreement = await knowledge.get("agreements", steward);
        const question = { userName: ANALYST.userName, type: TYPE };
        return evaluateAgreement(agreement?.document, agreement?.revision ?? 0, question, steward, nowMs);
      }),
    ),
  );
}

/** As the orchestrator asks it. */
function answerMs(rpc: RpcClient): Promise<number> {
  const question = { type: TYPE, user: ANALYST, dataProviders: [...STEWARDS], options: {} };
  return timed(() => askPolicyEnforcer(rpc, question, undefined));
}

async function timed(decide: () => Promise<readonly StewardValidation[]>): Promise<number> {
  let validations: readonly StewardValidation[] = [];
  const seconds = await secondsOf(async () => (validations = await decide()));
  assert.deepEqual(
    validations.map(({ steward, refusal }) => [steward, refusal]),
    STEWARDS.map((steward) => [steward, undefined]),
  );
  return seconds * 1000;
}

async function approvalMs({ exchange }: BenchExchange): Promise<number> {
  const url = new URL("/api/v1/requestApproval", exchange.url).href;
  return (await ask(url, { type: TYPE, user: ANALYST, dataProviders: STEWARDS })).totalMs;
}

/** Two stewards that run, so many agreements of others, and so many further users in the two stewards' own. */
async function configurationOf(others: number, users: number): Promise<string> {
  const providers = Object.fromEntries(STEWARDS.map((steward, at) => [steward, { Codes: codesFile(10, at) }]));
  const configuration = await writeConfiguration({ dataSet: CODES, providers });
  const people = Array.from({ length: users }, (_, at) => ({
    id: `user-${String(at)}`,
    userName: `user${String(at)}@example.org`,
  }));
  if (users > 0) await addUsers(configuration, people);
  const folder = join(configuration, "agreements");
  const own = JSON.parse(await readFile(join(folder, `${STEWARDS[0]}.json`), "utf8")) as Agreement;
  for (let at = 0; at < others; at += 1) {
    const name = `Other${String(at)}`;
    await writeFile(join(folder, `${name}.json`), JSON.stringify({ ...own, name }));
  }
  return configuration;
}

function table(sizes: readonly string[], ms: Readonly<Record<string, readonly number[]>>): Table {
  const valuesOf = (step: Step, size: string): readonly number[] => ms[keyOf(step, size)] ?? [];
  return {
    name: "decisions",
    title: "A policy decision, and the approval around it",
    columns: [
      { name: "what" },
      { name: "store has" },
      { name: "p50", unit: "ms" },
      { name: "p95", unit: "ms" },
      { name: "median, spread", unit: "ms" },
      { name: `of ${FEW}` },
    ],
    rows: STEPS.flatMap((step) =>
      sizes.map((size) => {
        const values = valuesOf(step, size);
        const ofFew = ratios(values, valuesOf(step, FEW));
        return [step, size, quantile(values, 0.5), quantile(values, 0.95), summarize(values), ofFew];
      }),
    ),
    targets: STEPS.flatMap((step): Target[] => {
      const name = TARGETS[step];
      if (name === undefined) return [];
      const measured = quantile(valuesOf(step, MANY), 0.95);
      return [{ what: `${name}, with ${MANY}, p95`, unit: "ms", measured, atMost: LIMIT_MS }];
    }),
    notes: [
      "About two stewards, one question after the other, in turns between steps and exchanges.",
      "Read and decided: both agreements from the store, checked and evaluated, as the policy enforcer does between question and answer. Over the bus: from the question's publishing to its checked answer, as the orchestrator asks. Whole approval: one HTTP request at the front door, with that decision, who is online, the choice of the archetype, the composition of both agents over the bus, the job's records at each, the plan in the store, and the tokens.",
      "What was promised is that a policy decision with 1,000 agreements takes at most 50 ms (p95), which can be read as the decision alone or as the approval that a caller waits for: both are compared with it.",
    ],
  };
}

function keyOf(step: Step, size: string): string {
  return `${step}, ${size}`;
}
