import assert from "node:assert/strict";
import { test } from "node:test";
import { partProcesses } from "../../../cli/exchange/parts.ts";

const PARTIES = ["SURF", "VU"].map((name) => ({ name, dataFile: `/parties/${name}.json` }));
const namesOf = (parts: ReturnType<typeof partProcesses>): string[] =>
  [...parts.enforcers, ...parts.orchestrators, ...parts.agents].map(({ name }) => name);

test("without replicas every part has one process, named after it", () => {
  assert.deepEqual(namesOf(partProcesses(PARTIES, {})), ["policy-enforcer", "orchestrator", "agent-SURF", "agent-VU"]);
});

test("replicas are numbered from the second on, and share their part's name", () => {
  const parts = partProcesses(PARTIES, { orchestrator: 2, policyEnforcer: 2, agent: { VU: 2 } });
  assert.deepEqual(namesOf(parts), [
    "policy-enforcer",
    "policy-enforcer-2",
    "orchestrator",
    "orchestrator-2",
    "agent-SURF",
    "agent-VU",
    "agent-VU-2",
  ]);
  assert.deepEqual(
    parts.agents.map(({ part, replica, party }) => [part, replica, party?.name]),
    [
      ["agent-SURF", 1, "SURF"],
      ["agent-VU", 1, "VU"],
      ["agent-VU", 2, "VU"],
    ],
  );
});

test("replicas of a party that there is not are a fault that names those that there are", () => {
  assert.throws(() => partProcesses(PARTIES, { agent: { VUU: 2 } }), /no party "VUU".*SURF, VU/);
});
