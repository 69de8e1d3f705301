import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import type { EventBody, HistoryEvent, Outcome } from "./history.ts";
import { judge, type Violation } from "./judge.ts";
import type { PlannedRequest } from "./plan.ts";
import { SLICES } from "./questions.ts";

const LIMITS = { toleranceMs: 1_000, recoveryMs: 10_000, maxMebibytes: 300 };
const REQUEST: PlannedRequest = {
  name: "r1",
  atMs: 0,
  way: "oneGo",
  throughThirdParty: false,
  providers: ["VU", "UVA"],
  question: { slice: SLICES[0]! },
  format: "json",
  ending: { kind: "answer", repeats: false },
  door: 0,
};
const REFUSED: PlannedRequest = { ...REQUEST, ending: { kind: "refusal", fault: "noSuchColumn" } };
const ANSWERED: Outcome = { kind: "answered", providers: ["UVA", "VU"], without: [], fault: undefined };
const failed = (code: string): Outcome => ({
  kind: "failed",
  code,
  detail: "so it is",
  party: "VU",
  retryable: true,
});

/** One request from 1 s to 3 s, and what else is said to have happened. */
function story(
  outcomes: readonly Outcome[],
  more: readonly (EventBody & { readonly atMs: number })[] = [],
  request = REQUEST,
): HistoryEvent[] {
  const begin: HistoryEvent = { kind: "request", request, limitMs: 60_000, atMs: 1_000 };
  const events = [
    begin,
    ...outcomes.map((outcome) => ({ kind: "outcome" as const, request: "r1", outcome, atMs: 3_000 })),
    ...more,
  ] as HistoryEvent[];
  return events.sort((left, right) => left.atMs - right.atMs);
}

const fault = (fromMs: number, toMs: number, found = true): (EventBody & { readonly atMs: number })[] => [
  { kind: "faultBegan", fault: "f1", what: "kill", atMs: fromMs },
  { kind: "faultEnded", fault: "f1", found, atMs: toMs },
];

const rulesOf = (events: readonly HistoryEvent[]): readonly Violation["rule"][] =>
  judge(events, LIMITS).map(({ rule }) => rule);

describe("what may happen", () => {
  for (const [what, events] of [
    ["a right answer", story([ANSWERED])],
    ["a refusal with its own code", story([failed("query_invalid")], [], REFUSED)],
    ["a failure during a fault", story([failed("agent_offline")], fault(2_000, 2_500))],
    ["a failure soon after a fault", story([failed("job_failed")], fault(-9_000, -8_500))],
    [
      "an answer without a party that a fault explains",
      story([{ ...ANSWERED, providers: ["VU"], without: [{ provider: "UVA", code: "offline" }] }], fault(0, 1_500)),
    ],
    ["an end that was asked for", story([ANSWERED], [exited(true, 500)])],
    ["an end that a fault explains", story([ANSWERED], [...fault(400, 450), exited(false, 500)])],
    ["a logged error that a fault explains", story([ANSWERED], [...fault(400, 450), logged("unavailable", 500)])],
    [
      "a message that nobody took in time, after a fault",
      story(
        [ANSWERED],
        [...fault(400, 450), { kind: "deadLetter", queue: "q", reason: "expired", type: "t", atMs: 9_000 }],
      ),
    ],
    ["a cancel", story([{ kind: "cancelled" }], [], { ...REQUEST, ending: cancelSoon() })],
    ["an answer that was faster than the cancel", story([ANSWERED], [], { ...REQUEST, ending: cancelSoon() })],
  ] as const) {
    test(`${what}: no violation`, () => assert.deepEqual(judge(events, LIMITS), []));
  }
});

describe("what must not happen", () => {
  for (const [what, rules, events] of [
    ["no outcome", ["J1"], story([])],
    ["two outcomes", ["J1"], story([ANSWERED, ANSWERED])],
    ["a late outcome", ["J1"], [...story([]), { kind: "outcome", request: "r1", outcome: ANSWERED, atMs: 63_000 }]],
    [
      "an attempt without end",
      ["J1"],
      story([ANSWERED], [{ kind: "hung", request: "r1", url: "u", forMs: 9, atMs: 2_000 }]),
    ],
    ["a client that gives up", ["J1"], story([{ kind: "gaveUp", last: "unavailable" }], fault(0, 3_000))],
    [
      "a wait in vain, whatever the faults",
      ["J1"],
      story(
        [ANSWERED],
        [
          ...fault(400, 450),
          { kind: "stalled", service: "agent-VU", code: "time_limit_exceeded", line: "a line", atMs: 2_000 },
        ],
      ),
    ],
    ["a wrong answer, whatever the faults", ["J2"], story([{ ...ANSWERED, fault: "1 doubled" }], fault(0, 3_000))],
    ["a party that nobody names", ["J2"], story([{ ...ANSWERED, providers: ["VU"] }], fault(0, 3_000))],
    ["a failure without a fault", ["J3"], story([failed("agent_offline")])],
    ["a failure long after a fault", ["J3"], story([failed("agent_offline")], fault(-20_000, -15_000))],
    ["a failure while a fault found nothing", ["J3"], story([failed("agent_offline")], fault(2_000, 2_500, false))],
    [
      "a failure after all is well again",
      ["J3"],
      story([failed("agent_offline")], [...fault(0, 500), { kind: "healed", atMs: 900 }]),
    ],
    ["a failure that hides its cause", ["J3"], story([failed("internal")], fault(2_000, 2_500))],
    ["a failure that blames the analyst", ["J3"], story([failed("token_invalid")], fault(2_000, 2_500))],
    ["a cancel that nobody asked for", ["J3"], story([{ kind: "cancelled" }], fault(2_000, 2_500))],
    [
      "a party that fails in an answer without a fault",
      ["J3"],
      story([{ ...ANSWERED, providers: ["VU"], without: [{ provider: "UVA", code: "job_failed" }] }]),
    ],
    [
      "a party that fails with what no fault explains",
      ["J3"],
      story([{ ...ANSWERED, providers: ["VU"], without: [{ provider: "UVA", code: "internal" }] }], fault(0, 3_000)),
    ],
    ["an answer to what should be refused", ["J4"], story([ANSWERED], [], REFUSED)],
    ["a refusal with another code", ["J4"], story([failed("column_unknown")], [], REFUSED)],
    [
      "a repeat with another answer",
      ["J5"],
      story([ANSWERED], [{ kind: "repeated", request: "r1", fault: "another", atMs: 4_000 }]),
    ],
    ["something left behind", ["J6"], story([ANSWERED], [{ kind: "leftOver", what: "queue", name: "q", atMs: 9_000 }])],
    [
      "a dead letter",
      ["J6"],
      story([ANSWERED], [{ kind: "deadLetter", queue: "q", reason: "rejected", type: "t", atMs: 9_000 }]),
    ],
    [
      "a message that nobody took in time, without a fault",
      ["J6"],
      story([ANSWERED], [{ kind: "deadLetter", queue: "q", reason: "expired", type: "t", atMs: 9_000 }]),
    ],
    ["a program that ends by itself", ["J7"], story([ANSWERED], [exited(false, 500)])],
    [
      "a program that does not start again",
      ["J7"],
      story([ANSWERED], [{ kind: "restartFailed", service: "s", error: "e", atMs: 900 }]),
    ],
    ["a logged error without a fault", ["J7"], story([ANSWERED], [logged("unavailable", 500)])],
    [
      "a logged error that is unexpected, whatever the faults",
      ["J7"],
      story([ANSWERED], [...fault(400, 450), logged("internal", 500)]),
    ],
    ["a crash in a log, whatever the faults", ["J7"], story([ANSWERED], [...fault(400, 450), logged(undefined, 500)])],
    [
      "a process with too much memory",
      ["J7"],
      story([ANSWERED], [{ kind: "memory", process: "agent", mebibytes: 301, atMs: 9_000 }]),
    ],
  ] as const) {
    test(`${what} is ${rules.join(" and ")}`, () =>
      assert.deepEqual(rulesOf(events as readonly HistoryEvent[]), rules));
  }

  test("is found among any number of good requests, and nothing else is", () => {
    const planted: readonly (readonly [Violation["rule"], (name: string) => readonly HistoryEvent[]])[] = [
      ["J1", (name) => good(name).filter(({ kind }) => kind !== "outcome")],
      ["J1", (name) => [...good(name), ...good(name).filter(({ kind }) => kind === "outcome")]],
      ["J2", (name) => withOutcome(name, { ...ANSWERED, fault: "1 missing" })],
      ["J3", (name) => withOutcome(name, failed("agent_timeout"))],
      ["J3", (name) => withOutcome(name, failed("internal"))],
      ["J5", (name) => [...good(name), { kind: "repeated", request: name, fault: "another", atMs: 5_000 }]],
    ];
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 20 }),
        fc.integer({ min: 0, max: 20 }),
        fc.constantFrom(...planted),
        (before, after, [rule, plant]) => {
          const others = (count: number, from: number): HistoryEvent[] =>
            Array.from({ length: count }, (_, index) => good(`r${String(from + index)}`)).flat();
          const events = [...others(before, 100), ...plant("planted"), ...others(after, 200)];
          const found = judge(events, LIMITS);
          assert.deepEqual(
            found.map((violation) => [violation.rule, violation.request]),
            [[rule, "planted"]],
          );
        },
      ),
    );
  });
});

function good(name: string): readonly HistoryEvent[] {
  return withOutcome(name, ANSWERED);
}

function withOutcome(name: string, outcome: Outcome): readonly HistoryEvent[] {
  return [
    { kind: "request", request: { ...REQUEST, name }, limitMs: 60_000, atMs: 1_000 },
    { kind: "outcome", request: name, outcome, atMs: 3_000 },
  ];
}

function exited(isExpected: boolean, atMs: number): HistoryEvent {
  return { kind: "exited", service: "agent-VU", how: "SIGKILL", isExpected, atMs };
}

function logged(code: string | undefined, atMs: number): HistoryEvent {
  return { kind: "logged", service: "agent-VU", code, line: "a line", atMs };
}

function cancelSoon(): PlannedRequest["ending"] {
  return { kind: "cancel", by: "hangUp", after: 100 };
}
