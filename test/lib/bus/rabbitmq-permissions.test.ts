/** Each user's patterns against the names that the programs really make; RabbitMQ itself is asked in `test/system/least-privilege.test.ts`. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  agentPermissions,
  chainPermissions,
  corePermissions,
  ownQueues,
} from "../../../lib/bus/rabbitmq-permissions.ts";
import {
  ORCHESTRATOR_QUEUE,
  POLICY_ENFORCER_QUEUE,
  agentQueue,
  chainWorkQueue,
  instanceControlQueue,
  instanceReplyQueue,
  instanceRunsQueue,
  runQueue,
  runReplyQueue,
} from "../../../lib/bus/queues.ts";
import { makeChainName, makeJobName, makeLocalJobName, makeRunName, makeShapeKey } from "../../../lib/model/names.ts";

/** One name is the beginning of another, one too long for a run's name, one looks like a part of one. */
const STEWARDS = ["VU", "VUmc", "UVA", "vu0123abcd", "abcdefabcdef", "Reply", `Very${"Long".repeat(10)}Name`];
const USERS = ["analyst@example.org", "", "x".repeat(80), "a-vu-b@example.org", "0123456789ab-1-abcde@example.org"];

function runsOf(steward: string): string[] {
  const warm = `warm-${makeShapeKey("a shape")}`;
  return [...USERS.map((user) => makeJobName(user, "0123abcd")), warm].flatMap((name) =>
    [1, 999].map((attempt) => {
      const job = makeLocalJobName(name, steward);
      return makeRunName(job, "request", attempt, attempt === 1 ? "a1b2c" : "reply");
    }),
  );
}

function serviceQueuesOf(steward: string): string[] {
  const instance = "0123abcd";
  return [
    agentQueue(steward),
    instanceReplyQueue(steward, instance),
    instanceControlQueue(steward, instance),
    instanceRunsQueue(steward, instance),
  ];
}

/** The queues of persistent chains: the work queue, and each chain's own. */
function persistentOf(steward: string): [work: string, ...chains: string[]] {
  const chains = [
    makeChainName(steward, "0123abcd-89abcdef", 0, 0),
    makeChainName(steward, "fedcba98-76543210", 999, 999_999),
  ];
  return [chainWorkQueue(steward, "0123abcd-89abcdef"), ...chains.map(runQueue)];
}

function queuesOf(steward: string): string[] {
  const runs = runsOf(steward);
  return [...serviceQueuesOf(steward), ...runs.map(runQueue), ...runs.map(runReplyQueue), ...persistentOf(steward)];
}

const CORE_QUEUES = [ORCHESTRATOR_QUEUE, POLICY_ENFORCER_QUEUE, instanceReplyQueue("orchestrator", "0123abcd")];

/** Which of the names a pattern lets through. */
function allowed(pattern: string, names: readonly string[]): string[] {
  return names.filter((name) => new RegExp(pattern).test(name));
}

describe("permissions at RabbitMQ", () => {
  for (const steward of STEWARDS) {
    const others = STEWARDS.filter((other) => other !== steward).flatMap(queuesOf);
    const foreign = [...others, ...CORE_QUEUES, "dead-letter-queue", "amq.default", "#", "*", "", `${steward}-in-#`];

    test(`${steward}'s agent has its own queues, and no other's`, () => {
      const { configure, read, topic } = agentPermissions({ steward, role: "both" });
      const own = queuesOf(steward);
      for (const pattern of [configure, read, topic.read]) {
        assert.deepEqual(allowed(pattern, own), own);
        assert.deepEqual(allowed(pattern, foreign), []);
      }
      assert.deepEqual(allowed(ownQueues({ steward }).source, [...own, ...foreign]), own);
    });

    test(`${steward}'s chains read their runs' queues and those of persistent chains only, and write to no work queue`, () => {
      const { configure, read, topic } = chainPermissions({ steward });
      const runs = runsOf(steward);
      assert.deepEqual(
        allowed(read, [...queuesOf(steward), ...foreign]).sort(),
        [...runs, ...persistentOf(steward)].sort(),
      );
      assert.deepEqual(allowed(configure, [...queuesOf(steward), ...others]), []);
      assert.deepEqual(allowed(topic.read, [...queuesOf(steward), ...others]), []);
      assert.deepEqual(allowed(topic.write, runs.map(runReplyQueue)), runs.map(runReplyQueue));
      const answers = [instanceRunsQueue(steward, "0123abcd")];
      assert.deepEqual(allowed(topic.write, [...serviceQueuesOf(steward), ...CORE_QUEUES]), answers);
      assert.deepEqual(
        allowed(
          topic.write,
          STEWARDS.map((party) => persistentOf(party)[0]),
        ),
        [],
      );
    });
  }

  test("a provider answers, and sends to others' runs; a third party asks", () => {
    const provider = agentPermissions({ steward: "VU", role: "dataProvider" }).topic.write;
    const third = agentPermissions({ steward: "VU", role: "thirdParty" }).topic.write;
    const both = agentPermissions({ steward: "VU", role: "both" }).topic.write;
    const [question = "", answer = ""] = serviceQueuesOf("SURF");
    const [run = ""] = runsOf("SURF");
    assert.deepEqual(allowed(provider, [question, answer, run, runReplyQueue(run)]), [answer, run]);
    assert.deepEqual(allowed(third, [question, answer, run, runReplyQueue(run)]), [question]);
    assert.deepEqual(allowed(both, [question, answer, run, runReplyQueue(run)]), [question, answer, run]);
    for (const pattern of [provider, third, both]) {
      assert.deepEqual(allowed(pattern, CORE_QUEUES), [instanceReplyQueue("orchestrator", "0123abcd")]);
    }
  });

  test("with partners named, nobody else is written to", () => {
    const party = { steward: "VU", role: "both", partners: ["UVA", "SURF"] } as const;
    const strangers = ["RUG", "UVAX", "SUR"].flatMap(queuesOf);
    assert.deepEqual(allowed(agentPermissions(party).topic.write, strangers), []);
    assert.deepEqual(allowed(chainPermissions(party).topic.write, strangers), []);
    assert.equal(allowed(chainPermissions(party).topic.write, runsOf("UVA")).length, runsOf("UVA").length);
  });

  test("the core asks every agent, and has no agent's queue", () => {
    const { configure, read, topic } = corePermissions();
    const agents = STEWARDS.map(agentQueue);
    assert.deepEqual(allowed(topic.write, agents), agents);
    for (const pattern of [configure, read, topic.read]) {
      assert.deepEqual(allowed(pattern, CORE_QUEUES), CORE_QUEUES);
      assert.deepEqual(allowed(pattern, STEWARDS.flatMap(queuesOf)), []);
    }
    assert.deepEqual(allowed(topic.read, ["#", "*", "topic_exchange"]), []);
  });
});
